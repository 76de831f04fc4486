"""A run that is killed, stopped or damaged goes on with the same losses; a finished one is left as it is."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small.training import SMALL, losses
from transformers import TrainerCallback

from multipole_lab.training.checkpoints import checkpoints
from multipole_lab.training.journal import Journal
from multipole_lab.training.run import Run, train_run

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {helpers!r})
from small.training import SMALL
from multipole_lab.training import Corpus
from multipole_lab.training.run import Run, train_run

def show(row):
    if row["step"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_run(Run(SMALL, Corpus.open({corpus!r}), {method!r}, 3, "cpu", Path({folder!r})), show=show)
"""


@pytest.mark.parametrize("method", [None, SMALL.method], ids=["exact", "muse"])
def test_killed_run_goes_on_with_the_same_losses(method, corpus, tmp_path):
    whole = train_run(Run(SMALL, corpus, method, 3, "cpu", tmp_path / "whole"))
    folder = tmp_path / "killed"
    helpers = Path(__file__).parents[1] / "helpers"
    code = KILLED.format(helpers=str(helpers), corpus=str(corpus.folder), method=method, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (folder / "log.jsonl").open("a").write('{"step": 6, "lo')  # and the last line was cut off
    (folder / ".checkpoint-6").mkdir()  # and a checkpoint was not whole
    resumed = train_run(Run(SMALL, corpus, method, 3, "cpu", folder))
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    assert losses(resumed) == losses(whole)  # to the last bit
    looks = [[row["heldout_loss"] for row in rows if "heldout_loss" in row] for rows in (whole, resumed)]
    assert looks[0] == looks[1]
    weights = [
        (part / "checkpoint-6" / "model.safetensors").read_bytes() for part in (tmp_path / "whole", folder)
    ]
    assert weights[0] == weights[1]


class OtherDraws(TrainerCallback):
    """Before every step the global generators are somewhere else."""

    def on_step_begin(self, args, state, control, **kwargs):
        for draw_from in (random.seed, np.random.seed, torch.manual_seed):
            draw_from(1000 + state.global_step)


@pytest.mark.parametrize("method", [None, SMALL.method], ids=["exact", "muse"])
def test_a_resumed_run_needs_no_random_state(method, corpus, tmp_path):
    whole = train_run(Run(SMALL, corpus, method, 3, "cpu", tmp_path / "whole"))
    run = Run(SMALL, corpus, method, 3, "cpu", tmp_path / "resumed")
    begun = train_run(run, stop=lambda step: step == 3)
    assert begun[-1]["step"] == 3
    resumed = train_run(run, callbacks=[OtherDraws()])
    assert losses(resumed) == losses(whole)  # to the last bit
    assert resumed[-1]["heldout_loss"] == whole[-1]["heldout_loss"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on(corpus, tmp_path):
    """Every file of the last checkpoint in turn: cut off, then missing."""
    rows = train_run(Run(SMALL, corpus, None, 3, "cpu", tmp_path / "run"))
    before, last = checkpoints(tmp_path / "run").values()
    files = sorted(path for path in last.iterdir() if path.suffix in (".json", ".safetensors"))
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.warns(UserWarning, match=rf"{last.name} is left out.*{path.name} is damaged"):
            assert list(checkpoints(tmp_path / "run").values()) == [before]
        path.write_bytes(content)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        content = (last / name).read_bytes()
        (last / name).unlink()
        with pytest.warns(UserWarning, match=f"{name} is missing"):
            assert list(checkpoints(tmp_path / "run").values()) == [before]
        (last / name).write_bytes(content)
    assert list(checkpoints(tmp_path / "run").values()) == [before, last]
    os.truncate(last / "optimizer.safetensors", 1000)
    with pytest.warns(UserWarning, match=r"optimizer\.safetensors is damaged"):
        assert losses(train_run(Run(SMALL, corpus, None, 3, "cpu", tmp_path / "run"))) == losses(rows)
    for path in (before, last):
        os.truncate(path / "model.safetensors", 1000)
    with pytest.raises(
        ValueError, match=r"no checkpoint of .* is whole: .*model\.safetensors is damaged.*--restart"
    ):
        train_run(Run(SMALL, corpus, None, 3, "cpu", tmp_path / "run"))
    assert before.is_dir()
    assert last.is_dir()
    assert losses(Journal(tmp_path / "run").rows()) == losses(rows)  # nothing was lost


def test_finished_run_is_not_trained_again_and_another_is_refused(corpus, tmp_path):
    preset = SMALL.replace(steps=2)
    run = Run(preset, corpus, None, 0, "cpu", tmp_path)
    rows = train_run(run)
    assert train_run(run) == rows
    with pytest.raises(ValueError, match=r"other settings \(rate: 0.003 there, 0.1 now\).*--restart"):
        train_run(Run(preset.replace(rate=0.1), corpus, None, 0, "cpu", tmp_path))
