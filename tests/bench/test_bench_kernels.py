"""`bench kernels` tried on a CPU with interpreted kernels: every case runs and agrees with its oracle."""

import argparse
import json
import os

import pytest
import torch

from multipole_lab.bench.kernels import command as bench_kernels
from multipole_lab.bench.kernels.oracle import differing, error
from multipole_lab.measure.roofline import Roofline

ON_CPU = not torch.cuda.is_available()
SMALL = "--n 96 --heads 2 1 --head-size 16 --clusters 3 --near 1 --rank 2 --dtype float32 --repeats 1"
CHEAP = {
    "assign", "lloyd", "sort_by_label", "cluster_means", "capped_rounds", "summarise", "select_near", "dipole",
    "evaluate", "leaf", "muse", "muse_dipole", "runs_full", "runs_causal", "centroid_field", "decode_lookup",
    "decode_select", "decode_attend", "decode_merge",
}  # fmt: skip


def run(words):
    parser = argparse.ArgumentParser()
    bench_kernels.add_arguments(parser)
    return bench_kernels.run(parser.parse_args(words.split()))


@pytest.mark.skipif(ON_CPU and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU and no interpreter")
def test_every_kernel_of_the_report_is_timed_and_right(capsys, tmp_path):
    device = "cpu" if ON_CPU else "cuda"
    assert run(f"--device {device} {SMALL} --json {tmp_path / 'rows.json'}") == 0
    record = json.loads((tmp_path / "rows.json").read_text())
    rows = {row["kernel"]: row for row in record["rows"]}
    assert set(rows) == CHEAP
    for name, row in rows.items():
        assert row["ms"] > 0, name
        assert row["bytes"] > 0, name
        assert row["error"] <= 1e-9, f"{name}: relative squared error {row['error']:.1e}"
    assert record["roofline"]["gigabytes"] > 0
    assert "of the roofline" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(ON_CPU and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU and no interpreter")
def test_one_that_fails_is_a_row_and_the_others_go_on(capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    timed = bench_kernels.time_case
    monkeypatch.setattr(
        bench_kernels, "time_case", lambda c, a: broken() if c.kernel == "cluster_means" else timed(c, a)
    )
    assert run(f"--device {'cpu' if ON_CPU else 'cuda'} {SMALL} --only _me --json") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kernel"] for row in rows if "failed" in row] == ["cluster_means"]
    assert rows[-1]["kernel"] == "decode_merge"
    assert rows[-1]["error"] < 1e-9


@pytest.mark.skipif(not ON_CPU, reason="there is a GPU here")
def test_without_a_gpu_it_says_what_is_needed(capsys, monkeypatch):
    assert run("") == 2
    message = capsys.readouterr().err
    assert "NVIDIA GPU of compute capability 7.5" in message
    assert "multipole-lab doctor" in message
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert run("--device cpu") == 2
    assert "TRITON_INTERPRET=1" in capsys.readouterr().err


def test_roofline_takes_the_slower_of_memory_and_arithmetic():
    roof = Roofline(gigabytes=1000, teraops=100, dtype="float16")
    assert roof.least_ms(moved=1e9, operations=1e9) == 1.0  # 1 GB at 1 TB/s
    assert roof.least_ms(moved=1e6, operations=1e12) == 10.0
    assert roof.share(moved=1e9, operations=1e9, ms=4.0) == 0.25


def test_errors_are_relative_and_minus_infinity_agrees_with_itself():
    exact = torch.tensor([3.0, 4.0, -torch.inf])
    assert error(exact, exact) == 0
    assert error(torch.tensor([3.0, 4.5, -torch.inf]), exact) == pytest.approx(0.25 / 25)
    assert error(torch.tensor([3.0, 4.0, 0.0]), exact) == torch.inf
    assert differing(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 4, 3])) == 0.5
