"""An evaluation that was killed or stopped goes on to the same table, and only with what it was begun with."""

import json
import signal
import subprocess
import sys
import time

import fake_gpu
import pytest
import torch
from small.evaluation import (
    evaluate,
    make_folder,
    make_model,
    rows_of,
    table_of,
)

from multipole_lab import environment as measured
from multipole_lab.environment import machine
from multipole_lab.evaluation import perplexity

pytestmark = pytest.mark.usefixtures("single")


def test_only_what_is_missing_is_computed(folder, text, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("perplexity", "--model", folder, "--text", text, "--out", out, "--max-tokens", 100)
    assert evaluate(*words, "--windows", 3, "--limit", 2) == 0
    before = rows_of(out)
    assert evaluate(*words, "--windows", 3, "--method", "Window(size=8)") == 0
    after = rows_of(out)
    assert after[:2] == before
    assert len(after) == 6
    assert "2 of 6 results already" in capsys.readouterr().err
    table = (out / "table.csv").read_bytes()
    assert evaluate(*words, "--windows", 3, "--method", "Window(size=8)") == 0
    assert rows_of(out) == after
    assert (out / "table.csv").read_bytes() == table


def test_results_name_their_machine_and_two_machines_are_told(folder, text, tmp_path, monkeypatch, capsys):
    fake_gpu.pretend(monkeypatch)
    out = tmp_path / "out"
    words = (
        "perplexity",
        "--model",
        folder,
        "--text",
        text,
        "--out",
        out,
        "--max-tokens",
        100,
        "--windows",
        2,
    )
    assert evaluate(*words, "--limit", 1) == 0
    printed = capsys.readouterr().out
    assert f"Measured on {machine('cpu')}, float32; python" in printed
    assert "machines" not in printed
    header = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    assert (header["device"], header["dtype"]) == (machine("cpu"), "float32")
    assert {"triton", "cuda"} <= set(header["versions"])
    assert machine("cpu") in (out / "report.html").read_text()
    monkeypatch.setattr(measured, "machine", lambda *_: "another machine")
    assert evaluate(*words) == 0
    assert "seconds are of 2 machines" in capsys.readouterr().out
    assert rows_of(out)[1]["device"] == "another machine"


def test_the_same_settings_find_their_folder_again(folder, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("perplexity", "--model", folder, "--text", text, "--max-tokens")
    assert evaluate(*words, 100) == 0
    (out,) = (tmp_path / "runs").iterdir()
    before = (out / "results.jsonl").read_bytes()
    assert evaluate(*words, 100, "--method", "Exact()") == 0
    assert (out / "results.jsonl").read_bytes().startswith(before)
    assert evaluate(*words, 90) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_trained_model_is_another_model(text, tmp_path, capsys):
    folder, out = make_folder(tmp_path / "model"), tmp_path / "out"
    words = ("perplexity", "--model", folder, "--text", text, "--max-tokens", 64, "--out", out)
    assert evaluate(*words) == 0
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    model.save_pretrained(folder)
    assert evaluate(*words) == 1
    assert "weights" in capsys.readouterr().err


def test_a_killed_evaluation_continues_to_the_same_table(folder, text, tmp_path, capsys):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = [
        "perplexity",
        "--model",
        folder,
        "--text",
        text,
        "--max-tokens",
        "64",
        "--windows",
        "24",
        "--threads",
        "1",
    ]
    words += ["--method", "MuSe(clusters=4, leaf=16)", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "multipole_lab.cli", "eval", *words, str(killed)], stderr=subprocess.DEVNULL
    )
    results = killed / "results.jsonl"
    while process.poll() is None and not (results.exists() and results.read_bytes().count(b"\n") > 4):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    had = results.read_bytes()
    assert 4 < had.count(b"\n") < 49, "the kill came in the middle"
    results.write_bytes(had + b'{"id": "torn in the mid')

    assert evaluate(*words, killed) == 0
    assert "results already; continuing" in capsys.readouterr().err
    assert evaluate(*words, whole) == 0
    assert results.read_bytes().startswith(had)
    assert len(rows_of(killed)) == 48
    assert table_of(killed).to_csv().encode() == table_of(whole).to_csv().encode()


def test_an_interrupted_run_says_how_to_go_on(folder, text, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = (
        "perplexity",
        "--model",
        folder,
        "--text",
        text,
        "--text",
        text,
        "--max-tokens",
        64,
        "--windows",
        3,
    )
    score, calls = perplexity._Scorer.__call__, []

    def interrupted(self, item, reader):
        calls.append(item.id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, item, reader)

    with monkeypatch.context() as patch:
        patch.setattr(perplexity._Scorer, "__call__", interrupted)
        assert evaluate(*words, "--out", out) == 130
    assert "keeps 2 results; the same command continues" in capsys.readouterr().err
    assert evaluate(*words, "--out", out) == 0
    assert len(rows_of(out)) == 3, "a text that is named twice is read once"
    assert table_of(out)["tokens"].tolist() == [3 * 63]
