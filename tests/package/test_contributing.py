"""What CONTRIBUTING shows is what works today: its method attends, its benchmark prints a row, its commands exist."""

import argparse
import re
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch

import multipole_lab as ml
from multipole_lab.measure import operations
from multipole_lab.testing import assert_close, oracle, qkv

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)\n *```", TEXT, re.DOTALL)]


def shown(first_words: str, name: str) -> types.ModuleType:
    """The block that begins so, as a module of its own."""
    (source,) = [block for block in BLOCKS if block.lstrip().startswith(f'"""{first_words}')]
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    exec(compile(source, f"CONTRIBUTING.md, {name}", "exec"), vars(module))
    return module


@pytest.fixture
def strided():
    yield shown("Strided attention", "shown_strided").Strided
    del sys.modules["shown_strided"]


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_the_method_shown_sees_every_third_key_and_the_latest(strided, causal):
    q, k, v = qkv(1, (2, 2), 11, 17, 8, 5)
    position, column = torch.arange(6, 17)[:, None], torch.arange(17)
    seen = (column % 3 == 0) | ((column > position - 4) & (column <= position))
    seen &= (column <= position) | (not causal)
    got = strided(step=3, recent=4)(q, k, v, causal=causal, scale=0.3)
    assert_close("out", got, oracle.exact(q.double(), k.double(), v.double(), 0.3, seen)[0], error=1e-10)


def test_the_method_shown_refuses_what_it_cannot_do(strided):
    with pytest.raises(ValueError, match="step is 0"):
        strided(step=0)


def test_what_takes_a_method_that_is_in_no_module_is_what_the_guide_says(strided):
    sample = ml.load_sample("smollm2").crop(64)
    asked = {"layers": [15], "repeats": 1}
    assert list(ml.compare(sample, [strided()], tokens=64, **asked)["method"]) == ["Strided()"]
    for refuses in (
        lambda: ml.tune(sample, methods=[strided()], **asked),
        lambda: ml.sweep(sample, [strided()], **asked),
    ):
        with pytest.raises(TypeError, match="method is a Strided; one of"):
            refuses()
    with pytest.raises(TypeError, match="no formula for Strided"):
        operations(strided(), 64)
    guide = (ROOT / "docs/guides/uses.md").read_text(encoding="utf-8").split("## A method of your own")[1]
    answers = re.findall(r"^\| `(?:ml\.|measure\.)(\w+).*?\| (yes|no)", guide, re.MULTILINE)
    assert answers == [("compare", "yes"), ("tune", "no"), ("operations", "no")]


def test_the_benchmark_shown_prints_error_and_time(strided, monkeypatch, capsys):
    monkeypatch.setattr(ml, "Strided", strided, raising=False)
    module = shown("`multipole-lab bench strided`", "shown_benchmark")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert module.run(parser.parse_args(["--n", "64", "--steps", "2", "--repeats", "1"])) == 0
    assert re.search(r"step +2: error 0\.\d+, [\d.]+ ms against [\d.]+ ms", capsys.readouterr().out)


def test_every_command_of_make_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in ("CONTRIBUTING.md", "README.md"):
        named = set(re.findall(r"`make ([a-z]+)", (ROOT / page).read_text(encoding="utf-8")))
        assert named <= targets, page
