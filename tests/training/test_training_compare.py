"""Exact and MuSe side by side: turns, equal steps, the table, the command line, and several processes."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small.training import SMALL

from multipole_lab import cli
from multipole_lab.figures import training as draw
from multipole_lab.training import compare_training
from multipole_lab.training.comparison import FIGURE, RESULT
from multipole_lab.training.comparison_result import SIDES, summarise, table
from multipole_lab.training.journal import Journal
from multipole_lab.training.turns import TakeTurns, side_by_side

FOUR_STEPS = SMALL.replace(steps=4, warmup=1)
TINY = [
    "--vocab", "300", "--context", "64", "--width", "16", "--heads", "1", "--mlp", "16", "--batch", "1", "--steps", "3",
    "--every", "3", "--heldout-blocks", "2", "--method", "MuSe(clusters=4, leaf=16)",
]  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MULTIPOLE_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


# --- turns ----------------------------------------------------------------------------------------


def steps_of(name: str, count: int, order: list, fail_at: int | None = None):
    def call(take_turns: TakeTurns, over):
        for step in range(1, count + 1):
            take_turns.on_step_begin(None, None, None)
            assert threading.active_count() >= 2
            order.append((name, step))
            if step == fail_at:
                raise ValueError(f"{name} failed")
            if over(step):
                break
        return step

    return call


def test_sides_take_turns_step_by_step():
    order = []
    found = side_by_side({"a": steps_of("a", 4, order), "b": steps_of("b", 4, order)})
    assert found == {"a": 4, "b": 4}
    assert order == [(name, step) for step in range(1, 5) for name in "ab"]


def test_a_side_with_fewer_steps_lets_the_other_finish():
    order = []
    assert side_by_side({"a": steps_of("a", 2, order), "b": steps_of("b", 5, order)}) == {"a": 2, "b": 5}


def test_when_time_is_up_all_have_done_the_same_steps():
    order = []
    found = side_by_side({"a": steps_of("a", 9, order), "b": steps_of("b", 9, order)}, seconds=0)
    assert found == {"a": 1, "b": 1}


@pytest.mark.parametrize("bad", ["a", "b"])
def test_an_error_of_one_side_ends_both(bad):
    order = []
    sides = {name: steps_of(name, 50, order, 3 if name == bad else None) for name in "ab"}
    with pytest.raises(ValueError, match=f"{bad} failed"):
        side_by_side(sides)
    assert len(order) <= 7


# --- comparing ------------------------------------------------------------------------------------


def test_comparison_alternates_writes_and_goes_on(corpus, tmp_path):
    seen = []

    def show(side, seed, row):
        if "loss" in row:
            seen.append((seed, row["step"], side))
            if (seed, row["step"], side) == (0, 1, "muse"):
                time.sleep(3)  # what one side does is not in the other's time

    result = compare_training(FOUR_STEPS, corpus, tmp_path, seeds=[0, 1], show=show)
    expected = [(seed, step, side) for seed in (0, 1) for step in range(1, 5) for side in ("exact", "muse")]
    assert seen == expected
    assert result["curves"]["0"]["exact"]["seconds"][1] < 3
    assert json.loads((tmp_path / RESULT).read_text()) == result
    assert "<html" in (tmp_path / FIGURE).read_text()[:200]
    for row in result["seeds"]:
        assert row["steps"] == 4
        assert abs(row["heldout_loss_difference"]) < 1
        logs = [Journal(tmp_path / f"seed-{row['seed']}" / side).rows() for side in SIDES]
        norms = [[line["grad_norm"] for line in log if "loss" in line] for log in logs]
        assert norms[0] != norms[1]  # of four steps; a loss alone may round to the same
        loss = [result["curves"][str(row["seed"])][side]["loss"] for side in ("exact", "muse")]
        assert loss[0][0] == pytest.approx(loss[1][0], abs=0.01)  # the same weights and the same text
    assert result["preset"]["method"] == FOUR_STEPS.method
    assert "mean" in table(result)

    seen.clear()
    assert compare_training(FOUR_STEPS, corpus, tmp_path, seeds=[0, 1], show=show)["seeds"] == result["seeds"]
    assert seen == []  # nothing was left to do
    # One side has lost its last checkpoint, as if it had been killed: both go on from the one that both have.
    (tmp_path / "seed-1" / "muse" / "checkpoint-4" / "state.json").unlink()
    again = compare_training(FOUR_STEPS, corpus, tmp_path, seeds=[0, 1], show=show)
    assert seen == [(1, step, side) for step in (3, 4) for side in ("exact", "muse")]
    for seed in "01":
        for side in ("exact", "muse"):
            assert again["curves"][seed][side]["loss"] == result["curves"][seed][side]["loss"]
    with pytest.raises(ValueError, match="--restart"):
        compare_training(FOUR_STEPS.replace(rate=0.5), corpus, tmp_path, seeds=[0])


def test_limit_on_time_ends_every_seed_after_the_step_under_way(corpus, tmp_path):
    result = compare_training(FOUR_STEPS, corpus, tmp_path, seeds=[0, 1], max_seconds=0.01)
    assert [row["steps"] for row in result["seeds"]] == [1, 1]
    result = compare_training(FOUR_STEPS, corpus, tmp_path, seeds=[0, 1])  # and goes on without a limit
    assert [row["steps"] for row in result["seeds"]] == [4, 4]


def test_comparison_refuses(corpus, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"seeds is \[0, 0\]"):
        compare_training(FOUR_STEPS, corpus, tmp_path, seeds=[0, 0])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="on one device"):
        compare_training(FOUR_STEPS, corpus, tmp_path)


def test_summary_takes_shared_steps_and_paired_medians():
    def rows(factor, steps):
        layer = {"0": 0.1, "1": 0.1 * factor}
        found = [
            {
                "step": s, "loss": 3.0, "seconds": 2.0 * factor + (100 if s == 1 else 0), "tokens_per_second": 1.0,
                "attention_seconds": 0.5 * factor, "attention_by_layer": layer,
            }
            for s in steps
        ]  # fmt: skip
        return found + [{"step": s, "heldout_loss": 3.0 + (factor - 1) / 10} for s in steps if s % 5 == 0]

    found = {seed: {"exact": rows(1.0, range(1, 16)), "muse": rows(0.8, range(1, 12))} for seed in (0, 1)}
    result = summarise(found)
    (row, _) = result["seeds"]
    assert row["steps"] == 10
    assert row["heldout_loss_difference"] == pytest.approx(100 * (2.98 / 3 - 1))
    assert row["seconds_difference"] == pytest.approx(-20)
    assert row["attention_seconds_difference"] == pytest.approx(-20)
    assert row["by_layer"]["1"] == {"exact": pytest.approx(0.1), "muse": pytest.approx(0.08)}
    assert result["summary"]["seconds_difference"] == {"mean": pytest.approx(-20), "deviation": 0.0}
    assert summarise({0: {"exact": [], "muse": []}}) == {"seeds": [], "summary": {}}


# --- the figure -----------------------------------------------------------------------------------


def test_figure_states_what_came_out():
    steps, seconds = [1, 2, 3], [1.0, 1.0, None]
    losses = {"exact": [(steps, [5.0, 4.0, 3.0], [1.0] * 3)], "muse": [(steps, [5.0, None, 3.0], seconds)]}
    heldout = {"exact": [([3], [3.5])], "muse": [([3], [3.51])]}
    summary = {
        "heldout_loss_difference": 0.29,
        "seconds_difference": -8.0,
        "attention_seconds_difference": -21.0,
    }
    fig = draw.training(losses, heldout, summary, "MuSe(clusters=8)", "this machine")
    assert "21.0% less time in attention, 8.0% less" in fig.layout.title.text.replace("<br>", " ")
    assert "+0.29%" in fig.layout.title.text
    assert len(fig.data) == 8
    assert list(fig.data[4].x) == [1, 2, 3]
    slower = draw.training(losses, heldout, {**summary, "seconds_difference": 8.0}, "m", "here")
    assert "8.0% more in all" in slower.layout.title.text.replace("<br>", " ")
    same = draw.training(losses, heldout, {**summary, "heldout_loss_difference": -0.004}, "m", "here")
    assert "Held-out loss the same to 0.01%;" in same.layout.title.text
    assert "medians of a step" in same.layout.title.text.replace("<br>", " ")
    empty = draw.training({"exact": [], "muse": []}, {"exact": [], "muse": []}, {})
    assert "in turns" in empty.layout.title.text.replace("<br>", " ")


def test_the_legend_has_room_above_a_narrow_picture():
    losses = {side: [([1, 2], [5.0, 4.0], [1.0] * 2)] for side in ("exact", "muse")}
    fig = draw.training(losses, {side: [([2], [3.5])] for side in ("exact", "muse")}, {})
    names = [trace.name for trace in fig.data if trace.showlegend]
    columns = 370 // (40 + 7.5 * max(map(len, names)))  # of a 900 pixel window, file browser open
    heading = 24 + 18 * (1 + fig.layout.title.text.count("<br>"))
    assert heading + 27 * -(-len(names) // columns) <= fig.layout.margin.t


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "Muse(clusters=4)"], "there is no 'Muse'"),
        (["--method", "MuSe(clusters=-4)"], "clusters is -4"),
        (["--layers-muse", "3"], "muse_layers is [3]; the model has layers 0 to 2"),
        (["--device", "gpu"], "--device is 'gpu'; allowed are 'auto', 'cpu' and 'cuda'"),
        (["--fsdp"], "start them with: torchrun"),
        (["--max-seconds", "0"], "--max-seconds is 0.0; a positive number"),
        (["--heads", "3"], "width is 128 and heads 3"),
        (["--data", "/nowhere/at/all"], "which is no folder"),
    ],
)
def test_command_refuses(arguments, says, cache, capsys):
    assert cli.main(["train", "--device", "cpu", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_command_trains_compares_and_dry_runs(text, cache, capsys):
    out = cache / "runs"
    common = ["--data", str(text), "--out", str(out), "--device", "cpu", *TINY]
    assert cli.main(["train", "--attention", "muse", *common]) == 0
    first = capsys.readouterr().out
    assert "M parameters (embeddings" in first
    assert "held-out loss" in first
    assert cli.main(["train", "compare", "--seeds", "0", *common, "--restart"]) == 0
    assert "time of attention, forward and backward: layer 1" in capsys.readouterr().out
    assert (out / RESULT).is_file()
    paper = ["--preset", "paper", "--dry-run", "--context", "1500", "--out", str(cache / "dry")]
    assert cli.main(["train", "compare", *paper]) == 0
    found = json.loads((cache / "dry" / RESULT).read_text())
    assert (found["preset"]["layers"], found["preset"]["muse_layers"]) == (7, [3])
    assert found["seeds"][0]["steps"] == 2


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--fsdp"]], ids=["data parallel", "FSDP"])
def test_two_processes_learn_what_one_does(extra, text, tmp_path):
    """Two gloo processes with one sequence each against one process with two, and on from a checkpoint. The last of
    three steps is exact."""
    env = {**os.environ, "MULTIPOLE_LAB_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    common = ["--data", str(text), "--attention", "muse", "--device", "cpu", *TINY, "--every", "2"]
    common += ["--exact-last", "0.34"]

    def train(launcher: list[str], out: str, *more: str) -> dict[int, float]:
        command = [
            *launcher,
            "-m",
            "multipole_lab.cli",
            "train",
            *common,
            "--out",
            str(tmp_path / out),
            *more,
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500)
        assert done.returncode == 0, done.stderr[-3000:]
        log = (tmp_path / out / "seed-0" / "muse" / "log.jsonl").read_text().splitlines()
        return {row["step"]: row["loss"] for row in map(json.loads, log) if "loss" in row}

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one = train([sys.executable], "one", "--batch", "2")
    two = train(torchrun, "two", *extra)
    assert list(one) == list(two) == [1, 2, 3]
    for step in one:
        assert two[step] == pytest.approx(one[step], abs=2e-5)
    folder = tmp_path / "two" / "seed-0" / "muse"
    assert {path.suffix for path in folder.glob("checkpoint-3/*")} == {".json", ".safetensors"}
    (folder / "checkpoint-3" / "state.json").unlink()  # not whole: go on from step 2
    assert train(torchrun, "two", *extra) == two
