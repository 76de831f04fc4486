"""Tuning: the choice, its held-out evidence, what it says where nothing is good enough, and the interrupted run."""

import json

import pytest
import torch
from random_sample import random_sample

import multipole_lab as ml
from multipole_lab import cli
from multipole_lab.attention.calls import leaf
from multipole_lab.measure.workload import Workload
from multipole_lab.method_text import parse_method
from multipole_lab.search.tuner import folds

METHODS = [ml.MuSe(clusters=c, near=n) for c in (4, 8, 16) for n in (0, 2)] + [ml.Window(size=20)]


@pytest.fixture(scope="module")
def sample():
    return random_sample()


@pytest.fixture
def fast(monkeypatch):
    """No clock decides: a method takes as many ms as it has clusters, exact attention 1000, a look at a head 1."""

    def one_turn(self, call):
        call()
        return 1.0

    def time(self, method, repeats=3, give_up=float("inf")):
        ms = float(getattr(method, "clusters", 99) * (1 + getattr(method, "near", 0)))
        return ms, 1000.0, 1 if ms > give_up else repeats

    monkeypatch.setattr(Workload, "one_turn", one_turn)
    monkeypatch.setattr(Workload, "time", time)
    monkeypatch.setattr("multipole_lab.search.tuner.SLOWER", float("inf"))


def test_folds_share_no_query_and_miss_none():
    for length in (3, 100, 4096):
        tuned, held = folds(length)
        together = torch.cat([*tuned, *held]).sort().values
        assert torch.equal(together, torch.arange(length))
    sizes = [len(fold) for fold in (*folds(4096)[0], *folds(4096)[1])]
    assert max(sizes) - min(sizes) < 10


def test_the_fastest_of_those_under_the_error_is_chosen(sample, fast):
    found = ml.tune(sample, 0.9, methods=METHODS)
    allowed = found.table[found.table["rse"] <= 0.9]
    assert len(allowed) >= 2
    best = allowed.loc[allowed["seconds"].idxmin()]
    comment, line = found.code.splitlines()
    assert comment.startswith("# ")
    assert line == f"attend = ml.{best['method']}"
    assert found.speedup == best["speedup"] == 1000 / (1e3 * best["seconds"])
    assert found.tuned_error == best["rse"] <= 0.9
    assert eval(line.removeprefix("attend = "), {"ml": ml}) == found.method


def test_the_held_out_error_is_of_the_other_queries_with_another_seed(sample, fast):
    method = ml.MuSe(clusters=8, near=2)
    found = ml.tune(sample, 0.9, methods=[method], device="cpu")
    other = ml.MuSe(clusters=8, near=2, seed=1)
    held = folds(160)[1][0]
    wanted = []
    for layer in (1, 4):
        q, k, v = sample[layer].q, sample[layer].k, sample[layer].v
        exact = ml.Exact()(q, k, v, scale=sample.scale)[:, :, held]
        wanted.append(ml.relative_squared_error(other(q, k, v, scale=sample.scale)[:, :, held], exact).item())
    assert found.evidence["rse"].tolist() == pytest.approx(wanted, rel=1e-4)
    assert found.error == pytest.approx(sum(wanted) / 2, rel=1e-4)
    assert found.error != found.tuned_error


def test_the_tuned_error_is_the_worse_fold(sample, fast):
    method = ml.MuSe(clusters=8, near=2)
    found = ml.tune(sample, 0.9, methods=[method], layers=[4], device="cpu")
    q, k, v = sample[4].q, sample[4].k, sample[4].v
    exact, approx = (m(q, k, v, scale=sample.scale) for m in (ml.Exact(), method))
    errors = [
        ml.relative_squared_error(approx[:, :, fold], exact[:, :, fold]).item() for fold in folds(160)[0]
    ]
    assert found.tuned_error == pytest.approx(max(errors), rel=1e-4)


def test_another_sample_can_bear_witness(sample, fast):
    found = ml.tune(sample, 0.9, methods=METHODS, held_out=random_sample(seed=5))
    assert found.evidence["part"].tolist() == ["held out"] * 2 + ["other sample"] * 2
    assert "on the other sample" in found.note


def test_a_choice_that_does_not_hold_says_so(sample, fast):
    found = ml.tune(sample, 0.9, methods=METHODS)
    assert found.holds
    assert "keeps to it on held-out queries" in found.note
    found.evidence["rse"] = 1.0
    assert not found.holds
    assert "DOES NOT" in found.note


def test_a_causal_choice_names_the_leaf_that_it_was_measured_with(sample, fast, monkeypatch, tmp_path):
    monkeypatch.setattr(leaf, "_automatic", lambda method, *_: 32 if method.partition == "runs" else 64)
    methods = [
        ml.MuSe(clusters=4),
        ml.MuSe(clusters=4, partition="runs"),
        ml.MuSe(clusters=4, leaf=16),
        ml.Window(size=20),
    ]
    found = ml.tune(sample, 10.0, causal=True, methods=methods, device="cpu")
    named = {
        "MuSe(clusters=4, leaf=64)",
        "MuSe(clusters=4, leaf=32, partition='runs')",
        "MuSe(clusters=4, leaf=16)",
    }
    assert set(found.table["method"]) == {*named, "Window(size=20)"}
    saved = ml.load_choice(found.save(tmp_path / "choice.json")).method
    assert saved == found.method
    assert str(saved) in named
    monkeypatch.setattr(leaf, "_automatic", lambda *_: 128)  # another machine
    q, k, v = (torch.randn(1, 2, 160, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    assert torch.equal(saved(q, k, v, causal=True), found.method(q, k, v, causal=True))
    full = ml.tune(sample, 10.0, methods=methods, device="cpu")
    assert "MuSe(clusters=4)" in set(full.table["method"])  # which has no leaves


def test_an_impossible_error_gives_exact_attention_and_the_least_there_is(sample, fast):
    found = ml.tune(sample, 1e-12, methods=METHODS, device="cpu")
    assert found.method == ml.Exact()
    assert found.error == found.tuned_error == 0
    assert found.speedup == 1
    assert "None of 7 methods has an error of at most 1e-12; the least is" in found.note
    assert found.code.endswith("\nattend = ml.Exact()")


def test_nothing_faster_gives_exact_attention_and_names_the_fastest(sample, monkeypatch):
    monkeypatch.setattr(Workload, "time", lambda self, method, repeats=3, give_up=0: (2000.0, 1000.0, 1))
    monkeypatch.setattr("multipole_lab.search.tuner.SLOWER", float("inf"))
    found = ml.tune(sample, 0.9, methods=METHODS)
    assert found.method == ml.Exact()
    assert "0.50 times as fast as exact attention" in found.note


def test_real_times_causal_and_beyond_the_sample():
    found = ml.tune(random_sample(256, layers=(0,)), 0.5, causal=True, length=300, repeats=1)
    assert found.source == "resampled from 256 captured tokens"
    assert (found.table["seconds"] > 0).all()
    assert found.holds


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_error": 0}, "max_error is 0"),
        ({"max_error": float("nan")}, "max_error is nan"),
        ({"methods": []}, "methods is empty"),
        ({"methods": [ml.MuSe(clusters=999)]}, "none that approximates anything in 160 tokens"),
        ({"length": 10}, "10 tokens are too few"),
        ({"layers": [3]}, r"there are \[1, 4\]"),
        ({"held_out": random_sample(layers=(2,))}, r"there are \[2\]"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_a_wrong_argument_is_named(sample, settings, words):
    with pytest.raises(ValueError, match=words):
        ml.tune(sample, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_a_missing_gpu_is_explained(sample):
    with pytest.raises(ValueError, match="--device cuda needs an NVIDIA GPU"):
        ml.tune(sample, device="cuda")


def test_progress_grows_to_the_end_and_what_it_raises_ends_the_search(sample, fast):
    shares = []
    ml.tune(sample, 0.9, methods=METHODS, progress=lambda done, total: shares.append(done / total))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    with pytest.raises(KeyError):
        ml.tune(sample, 0.9, methods=METHODS, progress=lambda *_: {}["stop"])


def test_a_search_that_was_killed_continues_and_ends_with_the_same(sample, fast, tmp_path):
    whole = tmp_path / "whole.jsonl"
    first = ml.tune(sample, 0.9, methods=METHODS, out=whole)
    lines = whole.read_text().splitlines()
    for kept in (2, 9, len(lines) - 1):
        part = tmp_path / f"{kept}.jsonl"
        part.write_text("\n".join([*lines[:kept], '{"id": "scr']))
        again = ml.tune(sample, 0.9, methods=METHODS, out=part)
        assert again.method == first.method
        assert again.table["rse"].tolist() == first.table["rse"].tolist()
        assert part.read_text().splitlines()[:kept] == lines[:kept]
    with pytest.raises(ValueError, match=r"other settings: max_error was 0\.9 and is 0\.5"):
        ml.tune(sample, 0.5, methods=METHODS, out=whole)


def test_what_was_found_can_be_kept_and_shown(sample, fast, tmp_path):
    found = ml.tune(sample, 0.9, methods=METHODS)
    record = json.loads(found.save(tmp_path / "deep" / "found.json").read_text())
    assert parse_method(record["method"]) == found.method
    assert record["holds"] is True
    assert len(record["table"]) == len(found.table)
    shown = found._repr_html_()
    assert "Held-out evidence" in shown
    assert "<table" in shown
    assert found.code in str(found)


def test_the_command_prints_the_line_and_continues(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample.save(tmp_path / "mine")
    command = ["tune", "--sample", "mine.safetensors", "--method", "MuSe(clusters=8)", "--method", "Window(size=20)",
               "--max-error", "0.9", "--json", "found.json"]  # fmt: skip
    assert cli.main(command) == 0
    assert "attend = ml." in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["tried"] == 2
    assert cli.main(command) == 0
    assert "continuing there" in capsys.readouterr().err
    assert cli.main([*command, "--fresh"]) == 0
    assert "continuing there" not in capsys.readouterr().err
    assert cli.main(["tune", "--method", "Muse()"]) == 1
    assert "Did you mean 'MuSe'" in capsys.readouterr().err
