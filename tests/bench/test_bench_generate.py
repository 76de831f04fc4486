"""`bench generate` measures dense caches and ours over the same tokens; on a CPU with a tiny model and no compiler."""

import json

import pytest
import torch

from multipole_lab import cli
from multipole_lab.bench.decode.generation import Clock, Generated
from multipole_lab.threads import one_thread

TINY = """
    --prompt 450 --batch 2 --budget 20 --dense-until 0 --new 6 --turns 2 --compiler eager
    --layers 1 --hidden 32 --heads 4 2 --head-size 16 --vocabulary 64
"""


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def test_every_side_has_a_row_with_its_times_memory_and_divergence(tmp_path, capsys):
    file = tmp_path / "rows.json"
    words = ["bench", "generate", *TINY.split()]
    assert cli.main([*words, "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["new"] == 6
    assert "random Llama" in record["model"]
    rows = {row["side"]: row for row in record["rows"]}
    ours = "MultipoleCache(20, 2 levels)"
    assert list(rows) == ["DynamicCache", "StaticCache, compiled", ours, f"{ours}, compiled"]
    assert rows[ours]["kl"] == pytest.approx(rows[f"{ours}, compiled"]["kl"], rel=0.01)
    for side, row in rows.items():
        assert row["median_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["mean_ms"] > 0
        assert row["mean_ms"] in row["mean_ms_of_turns"]
        assert len(row["mean_ms_of_turns"]) == 2
        assert row["total_s"] * 1e3 == pytest.approx(row["first_token_ms"] + 5 * row["mean_ms"])
        assert row["peak_megabytes"] is None  # of a GPU only
        if side.startswith("MultipoleCache"):
            assert row["kl"] > 1e-9
            assert row["of_dense"] > 0
        else:
            assert 0 <= row["kl"] < 1e-11
            held = 456 if row["compiled"] else 455  # the last token is never fed
            assert row["cache_megabytes"] == pytest.approx(2 * held * 2 * 2 * 16 * 4 / 1e6)
    assert "batch 2, MultipoleCache(20, 2 levels)" in " ".join(capsys.readouterr().out.split())


def test_too_few_tokens_are_refused(capsys):
    assert cli.main(["bench", "generate", "--new", "1"]) == 2
    assert "--new is 1" in capsys.readouterr().err


def test_a_clock_forces_tokens_and_leaves_its_own_work_out_of_the_times():
    clock = Clock(torch.tensor([[3, 1]]))
    clock.start(torch.device("cpu"))
    scores = torch.tensor([[5.0, 1.0, 0.0, -2.0]])
    assert clock(None, scores).argmax() == 3
    assert clock(None, scores).argmax() == 1
    assert len(clock.times) == 2
    assert len(clock.log_probs) == 1
    assert torch.equal(clock.log_probs[0], scores.log_softmax(-1))


def test_figures_count_the_first_step_and_not_the_prompt():
    one = Generated([1000.0, 9.0, *[1.0] * 99], [], torch.zeros(1, 101), 5_000_000, None)
    figures = one.figures()
    assert figures["first_token_ms"] == 1000
    assert figures["first_step_ms"] == figures["max_ms"] == 9
    assert figures["mean_ms"] == pytest.approx(1.08)
    assert figures["median_ms"] == 1
    assert figures["p99_ms"] == 9
    assert figures["cache_megabytes"] == 5
