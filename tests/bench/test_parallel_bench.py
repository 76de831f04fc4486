"""`multipole-lab bench parallel`: rows that say what was sent, how far it is from one process, and what was refused."""

import json
import subprocess
import sys

import pytest

from multipole_lab.cli import main


@pytest.fixture(scope="module")
def rows():
    command = "bench parallel --ranks 2 --n 512 1024 --clusters 8 --leaf 128 --causal --ring-to 512 --json"
    done = subprocess.run(
        [sys.executable, "-m", "multipole_lab.cli", *command.split()],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {(row["method"], row["n"]): row for row in rows}


def test_a_row_for_each_side_and_length(rows):
    assert set(rows) == {(method, n) for method in ("muse", "ring") for n in (512, 1024)}
    for n in (512, 1024):
        assert rows["muse", n]["difference"] < 1e-5
        assert rows["muse", n]["seconds"] > 0
    assert 0 < rows["muse", 512]["rse"] < 0.5


def test_the_bytes_of_muse_stay_and_those_of_the_ring_double(rows):
    for kind in ("forward_bytes", "backward_bytes"):
        assert rows["muse", 512][kind] == rows["muse", 1024][kind]
    measured, by_formula = rows["ring", 512], rows["ring", 1024]
    assert "by_formula" not in measured
    assert measured["seconds"] > 0
    assert by_formula["by_formula"]
    assert by_formula["seconds"] is None
    assert by_formula["backward_bytes"] == 2 * measured["backward_bytes"]
    assert by_formula["forward_bytes"] - 96 == 2 * (measured["forward_bytes"] - 96)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n", "100"], "--n is 100; at least 256 is needed"),
        (["--near", "-1"], "near is -1; at least 0"),
        (["--ranks", "0"], "--ranks is [0]; at least 1"),
        (["--device", "cuda"], "--device cuda needs a process for each GPU: start it with torchrun"),
    ],
)
def test_what_no_process_could_do_is_refused_before_any_starts(arguments, said, capsys):
    assert main(["bench", "parallel", *arguments]) == 2
    assert said in capsys.readouterr().err
