"""The GPU benchmark of decoding runs from end to end; on a CPU without graphs and with interpreted kernels."""

import argparse
import json

from multipole_lab.bench.decode import gpu as bench
from multipole_lab.kernels.common.launch import interpreting

INTERPRETED = interpreting()  # our kernels run on a CPU only then


def test_rows_have_times_bytes_and_errors(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    file = tmp_path / "rows.json"
    small = f"--device cpu --dtype float32 --batch 1 2 --keys 640 --heads 2 1 --head-size 16 --json {file}"
    args = parser.parse_args([*small.split(), "--layers", "1", "--repeats", "1"])
    assert bench.run(args) == 0
    rows = json.loads(file.read_text())["rows"]
    assert {row["batch"] for row in rows} == {1, 2}
    sides = {row["side"]: row for row in rows if row["batch"] == 1}
    assert {"1 level", "2 levels"} <= set(sides)
    if INTERPRETED:
        assert sides["1 level"]["gigabytes"] < sides["dense, our kernel"]["gigabytes"]
    for name, row in sides.items():
        assert row["microseconds"] > 0
        assert row["error"] < (1e-8 if name.startswith("dense") else 0.5), name
    assert "of copy" in capsys.readouterr().out
