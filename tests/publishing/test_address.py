"""The public address, written where readers start: once, again, and for another owner."""

import importlib.util
import json
import os
import shlex
import shutil
import sys
import tomllib
import types
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = spec_from_file_location("address", ROOT / "docs/site/address.py")
address = module_from_spec(spec)
spec.loader.exec_module(address)


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(path, tmp_path / "notebooks")
    return tmp_path


def contents(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()}


def test_an_address_is_written_once_and_replaced_by_another(copy, capsys):
    before = contents(copy)
    assert address.main(["some-one/lab", str(copy)]) == 0
    changed = capsys.readouterr().out.split()
    assert {Path(name).name for name in changed} == set(before)
    first = contents(copy)
    assert address.main(["some-one/lab", str(copy)]) == 0
    assert contents(copy) == first
    assert capsys.readouterr().out == ""
    assert address.main(["other/name", str(copy)]) == 0
    assert not [name for name, text in contents(copy).items() if "some-one" in text]
    assert address.main(["some-one/lab", str(copy)]) == 0
    assert contents(copy) == first
    tomllib.loads(first["pyproject.toml"])
    for name, text in first.items():
        if name.endswith(".ipynb"):
            cells, old = json.loads(text)["cells"], json.loads(before[name])["cells"]
            head = "".join(cells[0]["source"])
            for place in (
                "colab.research.google.com/github/some-one/lab/blob/main/",
                "kaggle.com",
                "mybinder.org",
            ):
                assert place in head
            assert cells[1]["id"] == address.IDENTITY
            assert cells[2:] == old[1:], "only the head changes"


def test_the_first_cell_installs_nothing_where_the_lab_is_and_only_what_panels_need_elsewhere(monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    exec(address.INSTALL, {})
    assert ran == []
    colab = types.SimpleNamespace(
        output=types.SimpleNamespace(enable_custom_widget_manager=lambda: ran.append("on"))
    )
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(address.INSTALL, {})
    command, said = ran
    assert said == "on"
    program, *words = shlex.split(command)
    assert [program, *words[:4]] == [sys.executable, "-m", "pip", "install", "-q"]
    lab = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lab"]
    assert set(words[4:]) <= {"multipole_lab", *lab}
    assert len(address.INSTALL.splitlines()) <= 9


@pytest.mark.parametrize("words", [[], ["name"], ["a/b/c"], ["a b/c"]])
def test_what_is_no_address_is_refused(words, capsys):
    assert address.main(words) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
