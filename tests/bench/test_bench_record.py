"""The GPU benchmarks on a machine without one: their rows, what they leave out and why, what a crash leaves behind."""

import argparse
import json

import pytest
import torch

from multipole_lab.bench import attention as bench_attention, command as bench_command, kmeans as bench_kmeans
from multipole_lab.bench.record import Record
from multipole_lab.measure.cold_inputs import copies_needed, copies_of, cycled
from multipole_lab.measure.exact_sides import exact_sides
from multipole_lab.measure.precision import default_dtype_name

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def run(module, words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args(words.split()))


def test_rows_are_on_disk_as_soon_as_they_are_there(tmp_path, capsys):
    file = tmp_path / "rows.json"
    record = Record(str(file), "cpu", heads=3)
    for i in (1, 2):
        record.add({"n": i}, f"row {i}")
        kept = json.loads(file.read_text())
        assert [row["n"] for row in kept["rows"]] == list(range(1, i + 1))
    assert kept["heads"] == 3
    assert {"python", "torch", "triton"} <= set(kept["versions"])
    assert "row 2" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]


def test_json_without_a_file_is_one_object_a_line(capsys):
    assert (
        run(
            bench_kmeans,
            "--n 200 --heads 1 --clusters 4 --iterations 2 --sample random --dim 8 --repeats 1 --json",
        )
        == 0
    )
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["reference"] == "sklearn"
    assert row["inertia_ratio"] == pytest.approx(1, abs=0.05)
    assert "--device cuda" in row["skipped"]["flash-kmeans"]


@pytest.mark.parametrize("method", ["muse", "centroid"])
def test_attention_rows_have_errors_and_name_what_was_left_out(method, capsys):
    words = f"--n 128 --heads 1 --dim 16 --sample random --clusters 8 --repeats 1 --backward --method {method} --json"
    assert run(bench_attention, words) == 0
    row = json.loads(capsys.readouterr().out)
    assert 0 < row["rse"] < 2
    assert row["speedup"] == row["sides"]["sdpa"] / row["ms"]
    if not torch.cuda.is_available():
        assert {"cudnn", "flash", "efficient", "flex"} == set(row["skipped"])


@NO_GPU
@pytest.mark.parametrize("bench", ["kernels", "attention", "decode", "kmeans"])
def test_without_a_gpu_each_says_what_is_needed(bench, capsys):
    parser = argparse.ArgumentParser()
    bench_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", bench, "--device", "cuda", "--json"])
    assert bench_command.run(args) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


def test_exact_sides_of_a_cpu():
    q = torch.randn(1, 2, 8, 16)
    sides, skipped = exact_sides(q, q, q, causal=True)
    if not q.is_cuda:
        assert list(sides) == ["sdpa"]
        assert all("cpu" in why for why in skipped.values())


def test_inputs_take_turns_and_the_first_are_the_given_ones():
    x, y = torch.zeros(2), torch.ones(2, requires_grad=True)
    sets = copies_of([x, y])
    assert sets[0][0] is x
    assert all(one[1].requires_grad for one in sets)
    seen = []
    call = cycled(lambda i: seen.append(i), [(1,), (2,)])
    for _ in range(3):
        call()
    assert seen == [1, 2, 1]
    assert copies_needed(1 << 20, torch.device("cpu")) == 1


def test_measured_is_the_benchmark_as_a_table_that_names_its_device():
    table = bench_attention.measured("--sample random --heads 1 --dim 16 --clusters 4 --n 64 96 --repeats 1")
    assert list(table["n"]) == [64, 96]
    assert (table["speedup"] > 0).all()
    assert table["name"].str.startswith("live: ").all()
    assert table["name"].str.contains("thread").all()


@NO_GPU
def test_measured_refuses_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="--device cuda needs an NVIDIA GPU"):
        bench_attention.measured("--device cuda --n 64")


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_a_gpu_is_measured_in_the_half_precision_of_its_tensor_cores(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert default_dtype_name("cuda") == dtype
    assert default_dtype_name("cpu") == "float32"
