"""A run by MuSe whose last steps are exact: what it learns, where it goes on, what it says and what it refuses."""

import dataclasses
import json
import shutil

import pytest
from small.training import SMALL, losses

from multipole_lab import cli
from multipole_lab.training.run import Run, train_run

HALF = 0.5  # of six steps: 1 to 3 by MuSe, 4 to 6 exact


def looks(rows):
    """The loss on held-out text after each step at which it was looked at."""
    return {row["step"]: row["heldout_loss"] for row in rows if "heldout_loss" in row}


def weights(folder, step=6):
    return (folder / f"checkpoint-{step}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def ended(corpus, tmp_path_factory):
    """The run and its rows."""
    run = Run(SMALL, corpus, SMALL.method, 3, "cpu", tmp_path_factory.mktemp("ended"), exact_last=HALF)
    return run, train_run(run)


def test_the_last_steps_are_exact_attentions_from_that_checkpoint_to_the_digit(corpus, ended, tmp_path):
    run, rows = ended
    muse = Run(SMALL, corpus, SMALL.method, 3, "cpu", tmp_path / "muse")
    before = train_run(muse, stop=lambda step: step == 3)
    exact = dataclasses.replace(muse, method=None, folder=tmp_path / "exact")
    shutil.copytree(muse.folder / "checkpoint-3", exact.folder / "checkpoint-3")
    after = train_run(exact)
    assert losses(rows) == {**losses(before), **losses(after)}
    assert looks(rows)[6] == looks(after)[6]
    assert weights(run.folder) == weights(exact.folder)
    assert losses(rows) != losses(train_run(muse))  # the same steps by MuSe are others


@pytest.mark.parametrize("at", [2, 3, 5], ids=["before", "at the change", "after"])
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(ended, tmp_path, at):
    run, rows = ended
    stopped = dataclasses.replace(run, folder=tmp_path)
    train_run(stopped, stop=lambda step: step == at)
    resumed = train_run(stopped)
    assert losses(resumed) == losses(rows)
    assert looks(resumed)[6] == looks(rows)[6]
    assert weights(tmp_path) == weights(run.folder)


def test_a_copy_of_a_run_by_muse_ends_exactly_and_not_from_a_later_step(corpus, ended, tmp_path):
    run, rows = ended
    muse = dataclasses.replace(run, folder=tmp_path / "muse", exact_last=0.0)
    train_run(muse, stop=lambda step: step == 3)
    shutil.copytree(muse.folder, tmp_path / "branch")
    finished = losses(train_run(muse))
    branch = dataclasses.replace(run, folder=tmp_path / "branch")
    assert losses(train_run(branch)) == losses(rows)
    assert weights(branch.folder) == weights(run.folder)
    with pytest.raises(ValueError, match=r"other settings \(exact_last: None there, 0.5 now\)"):
        train_run(dataclasses.replace(branch, folder=muse.folder))
    with pytest.raises(ValueError, match=r"other settings \(exact_last: 0.5 there, None now\)"):
        train_run(dataclasses.replace(muse, folder=branch.folder))
    assert losses(train_run(muse)) == finished  # nothing was lost


def test_rows_and_checkpoints_say_what_computed_their_step(corpus, ended, tmp_path):
    run, rows = ended
    assert {row["step"]: row["attention"] for row in rows} == {
        **dict.fromkeys((1, 2, 3), "muse"),
        **dict.fromkeys((4, 5, 6), "exact"),
    }
    assert json.loads((run.folder / "run.json").read_text())["exact_last"] == HALF
    seldom = dataclasses.replace(run, folder=tmp_path, preset=SMALL.replace(every=4), log_every=4)
    rows = train_run(seldom)
    assert list(losses(rows)) == [3, 4, 6]  # no row is of steps by both
    assert list(looks(rows)) == [3, 4, 6]
    said = {
        step: json.loads((tmp_path / f"checkpoint-{step}" / "state.json").read_text())["attention"]
        for step in (4, 6)
    }
    assert said == {4: "exact", 6: "exact"}
    train_run(seldom, resume=0, stop=lambda step: step == 3)
    assert json.loads((tmp_path / "checkpoint-3" / "state.json").read_text())["attention"] == "muse"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exact_last": 1.0}, "exact_last is 1.0; a number of at least 0, below 1, is needed"),
        ({"exact_last": -0.1}, "exact_last is -0.1; a number"),
        ({"exact_last": "half"}, "exact_last is 'half'; a number"),
        ({"exact_last": float("nan")}, "exact_last is nan; a number"),
        ({"method": None}, "exact_last is 0.5, for a run with exact attention all along"),
        ({"context_parallel": 2}, "exact_last is 0.5, for a run with sequences in parts"),
    ],
)
def test_a_run_refuses_a_share_that_it_cannot_end_with(ended, changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(ended[0], **changes)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--exact-last", "0.1"], "--exact-last is for 'train --attention muse' alone"),
        (["compare", "--exact-last", "0.1"], "--exact-last is for 'train --attention muse' alone"),
        (
            ["--attention", "muse", "--exact-last", "1"],
            "--exact-last is 1.0; a number of at least 0, below 1",
        ),
    ],
)
def test_the_command_names_its_argument(capsys, arguments, says):
    assert cli.main(["train", "--device", "cpu", *arguments]) == 2
    assert says in capsys.readouterr().err
