"""Sequences in parts on several processes: what each reads, and that all together learn what one process does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from multipole_lab import cli
from multipole_lab.parallel.failing import ENDED
from multipole_lab.training.processes import check_parts
from multipole_lab.training.profiles.profiling import file_name
from multipole_lab.training.texts.parts import NO_TARGET, PartsOf

TINY = [
    "--vocab", "300", "--context", "61", "--width", "16", "--heads", "1", "--mlp", "16", "--batch", "2", "--steps", "3",
    "--every", "2", "--heldout-blocks", "2", "--method", "MuSe(clusters=4, leaf=16)", "--device", "cpu",
]  # fmt: skip


class Whole:
    """Sequences of eleven tokens, the i-th of which begins with 100 i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        ids = torch.arange(11) + 100 * i
        return {"input_ids": ids, "labels": ids}


def batches_of(parts, process, processes, batch):
    """What a process reads: every process takes a batch in its turn."""
    places = [parts[i] for i in range(len(parts))]
    batches = [places[i : i + batch] for i in range(0, len(places), batch)]
    return batches[process::processes]


@pytest.mark.parametrize(("processes", "parts", "batch"), [(2, 2, 2), (4, 2, 1), (4, 4, 2), (6, 3, 2)])
def test_a_group_reads_the_same_sequences_and_all_parts_of_each_once(monkeypatch, processes, parts, batch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    groups = processes // parts
    data = PartsOf(Whole(2 * batch * groups), parts, batch)
    read = [batches_of(data, process, processes, batch) for process in range(processes)]
    assert {len(batches) for batches in read} == {2}
    seen = []
    for group in range(groups):
        members = read[group * parts : (group + 1) * parts]
        for step in range(2):
            for row in range(batch):
                own = [member[step][row] for member in members]
                ids, targets, positions = (
                    torch.cat([item[name] for item in own])
                    for name in ("input_ids", "labels", "position_ids")
                )
                assert positions.tolist() == list(range(11))
                assert targets[:-1].tolist() == ids[1:].tolist()  # across the edges of the parts, too
                assert targets[-1] == NO_TARGET
                seen.append(int(ids[0]) // 100)
    assert sorted(seen) == list(range(2 * batch * groups))


def test_too_few_sequences_come_again_for_whole_groups(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    data = PartsOf(Whole(3), 2, 2)  # one round of two groups with two sequences each
    assert [data.place(i) for i in range(8)] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
        (2, 0),
        (0, 0),
        (2, 1),
        (0, 1),
    ]


def test_parts_that_do_not_divide_the_processes_are_refused(capsys, tmp_path):
    for parts, processes in ((2, 1), (3, 4), (0, 2)):
        with pytest.raises(ValueError, match=rf"context_parallel is {parts}, with {processes} process"):
            check_parts(parts, processes)
    assert cli.main(["train", "--context-parallel", "2", "--out", str(tmp_path)]) == 2
    assert "context_parallel is 2, with 1 process; a divisor" in capsys.readouterr().err


def test_a_profile_that_the_steps_would_not_reach_is_refused(capsys, tmp_path):
    assert cli.main(["train", "--profile", "2", "--steps", "6", "--out", str(tmp_path)]) == 2
    assert "--profile is 2, with 6 steps in all; the first 5 warm up" in capsys.readouterr().err
    assert [file_name(rank) for rank in range(3)] == ["profile.json", "profile-1.json", "profile-2.json"]


def written(folder):
    """Forty short texts in a folder of that folder."""
    text = folder / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_text(f"word{i:02d} is here, {i * i} " * 40, encoding="utf-8")
    return text


@pytest.mark.slow
def test_two_processes_with_half_of_each_sequence_learn_what_one_does(tmp_path):
    """MuSe in one layer, ring attention in the others; on from a checkpoint. 61 tokens: the parts differ by one."""
    text = written(tmp_path)
    env = {**os.environ, "MULTIPOLE_LAB_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def train(launcher: list[str], out: str, *more: str) -> list[dict]:
        command = [
            *launcher,
            "-m",
            "multipole_lab.cli",
            "train",
            "--attention",
            "muse",
            "--data",
            str(text),
            *TINY,
        ]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / out), *more],
            capture_output=True,
            text=True,
            env=env,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        log = Path(tmp_path / out / "seed-0" / "muse" / "log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in log]

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one, two = train([sys.executable], "one"), train(torchrun, "two", "--context-parallel", "2")
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for mine, theirs in zip(one, two, strict=True):
        for name in {"loss", "heldout_loss", "grad_norm"} & mine.keys():
            assert theirs[name] == pytest.approx(mine[name], abs=1e-3), (name, mine["step"])
    folder = tmp_path / "two" / "seed-0" / "muse"
    settings = json.loads((folder / "run.json").read_text())
    assert (settings["context_parallel"], settings["processes"]) == (2, 2)
    (folder / "checkpoint-3" / "state.json").unlink()  # not whole: go on from step 2
    again = train(torchrun, "two", "--context-parallel", "2")
    for mine, theirs in zip(two, again, strict=True):
        assert theirs.get("loss") == mine.get("loss")


# The second process is stopped after its first step: it is not dead, and says nothing.
STOPPED = """
import os, signal, sys
from multipole_lab import cli
from multipole_lab.training.trainer import Recorder

after = Recorder.on_step_end

def on_step_end(*args, **kwargs):
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    return after(*args, **kwargs)

Recorder.on_step_end = on_step_end
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_falls_silent_ends_the_others_with_its_reason(tmp_path):
    text, store = written(tmp_path), socket.create_server(("127.0.0.1", 0))
    port = store.getsockname()[1]
    store.close()
    command = [sys.executable, "-c", STOPPED, "train", "--data", str(text), "--limit", "6", "--context-parallel", "2",
               "--attention", "muse", "--out", str(tmp_path / "out"), *TINY]  # fmt: skip
    processes = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"MULTIPOLE_LAB_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
                              "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = processes[0].communicate(timeout=180)[1]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[0].returncode == ENDED, said[-3000:]
    assert "rank 1 has given no sign of life for 6 s: it was killed, or is stopped" in said
