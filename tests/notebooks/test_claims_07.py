"""What notebook 07 says about kernels, computed; numbers are those of cells and exercises."""

import inspect
import os
import re
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from claims import FOLDER, Notebook

import multipole_lab as ml
from multipole_lab.bench.recorded import attention_speedups, record, records
from multipole_lab.kernels.common.checks import MIN_CAPABILITY
from multipole_lab.kernels.common.tiles import find
from multipole_lab.kernels.report.compiling import TARGETS
from multipole_lab.method_text import parse_method

pytest.importorskip("triton")
PEAK, BANDWIDTH = 989e12, 3.35e12  # of an H100: operations and bytes a second


@pytest.fixture(scope="module")
def book():
    return Notebook("07")


@pytest.fixture(scope="module")
def speedups():
    """{(heads, kind, near): {length: row}} of what was recorded."""
    found = {}
    for name, rows in attention_speedups().groupby("name"):
        heads, kind, near = re.match(r"(\d+) heads of \d+, (\S+), near=(\d)", name).groups()
        found[int(heads), kind, int(near)] = {row["n"]: row for _, row in rows.iterrows()}
    return found


def times(name):
    """{length: (ms, exact_ms, source)} of a record."""
    return {row["n"]: (row["ms"], row["exact_ms"], row["source"]) for row in record(name)["rows"]}


def test_02_the_corner_of_the_roof(book):
    peak, bandwidth, corner = book.says(
        r"\$P = (\d+) \\cdot 10\^\{12\}\$ for 16-bit numbers and \$R = ([\d.]+) \\cdot "
        r"10\^\{12\}\$, so its corner "
        r"lies at (\d+)"
    )
    assert (peak * 1e12, bandwidth * 1e12) == (PEAK, BANDWIDTH)
    assert round(PEAK / BANDWIDTH) == corner


def test_10_what_memory_bound_means_in_numbers(book):
    rows = book.cell("09").rows(r" ([\d,]+) +([\d.]+)  (memory|arithmetic)")
    assert [bound for *_, bound in rows] == ["memory", "arithmetic", "memory", "memory"]
    longer, written, fused = book.says(r"takes (\d+) times as long .*?: (\d+) µs instead of ([\d.]+)\. In")
    assert (round(rows[0][1]), rows[1][1]) == (written, fused)
    assert round(rows[0][1] / rows[1][1]) == longer
    served, summaries, decoding = book.says(
        r"every byte serves ([\d,]+) operations.* Summaries have (\d+) operations a byte, a little "
        r"over half .*"
        r"Decoding has (\d)\."
    )
    assert [rows[i][0] for i in (1, 2, 3)] == [served, summaries, decoding]
    assert 0.5 < summaries / (PEAK / BANDWIDTH) < 0.6
    of_bytes, of_operations = book.says(r"their bytes take ([\d.]+) µs, their operations ([\d.]+)\. To fetch")
    operations, moved = book.cell("08").work["summaries of all clusters"]
    assert (round(moved / BANDWIDTH * 1e6, 1), round(operations / PEAK * 1e6, 1)) == (of_bytes, of_operations)
    more, less, micro, times = book.says(
        r"keys and values twice would move ([\d.]+) MB instead of ([\d.]+): ([\d.]+) µs, ([\d.]+) "
        r"times as long"
    )
    twice = moved + 2 * 2 * 16_384 * 64  # keys and values once more, two bytes a number
    assert (round(twice / 1e6, 1), round(moved / 1e6, 1)) == (more, less)
    assert round(twice / BANDWIDTH * 1e6, 1) == micro
    assert round(twice / moved, 1) == times
    assert twice / BANDWIDTH > operations / PEAK


def test_12_every_line_of_the_kernel_is_shown_once(book):
    shown = [book.cell(cell).value.text for cell in ("13", "15", "17", "19", "21", "23", "25")]
    source = inspect.getsource(book.cell("06").muse_summarise_kernel.fn).splitlines()
    source = [line.strip() for line in source]
    start = next(i for i, line in enumerate(source) if line.startswith("i_tile"))
    lines = [line.strip() for text in shown for line in text.splitlines() if line.strip()]
    assert sorted(lines) == sorted(line for line in source[start:] if line)


def test_28_the_kernel_agrees_with_the_formula(book):
    assert all(float(error) < 1e-5 for _, error in book.cell("28").rows(r"(mass|value): +(\S+)"))


def test_31_how_many_programs_fit_at_once(book):
    printed = book.cell("30").printed
    limit, shared, registers, spilled = re.search(
        r" 90 +64 float16 +64x128 w4 s3 +(?P<s>\d+) +(?P<l>\d+) +(\d+) +(\d+)", printed
    ).group("l", "s", 3, 4)
    assert int(spilled) == 0
    warps, threads, each, taken, fit, held, by_shared = book.says(
        r"takes (\d) · (\d+) · (\d+) = ([\d,]+) of them, so (\w+) fit \(of its ([\d,]+) bytes of "
        r"shared memory (\w+)"
    )
    assert each == int(registers)
    assert warps * threads * each == taken
    assert 65_536 // taken == fit
    assert held == int(limit)
    assert held // int(shared) == by_shared
    processors, at_once = book.says(r"With (\d+) multiprocessors (\d+) programs run at once")
    assert processors * fit == at_once
    heads, clusters, tiles, started = book.says(r"it starts (\d+) · (\d+) · (\d) = ([\d,]+)\.")
    found = re.search(r"Hq=(\d+) Hk=(\d+) N=\d+ C=(\d+)", printed)
    of_queries, of_keys, C = map(int, found.groups())
    assert (of_keys, C, of_queries // of_keys * C // 64) == (heads, clusters, tiles)
    assert heads * clusters * tiles == started


def test_34_longer_texts_are_drawn_again(book):
    first, last, longest = book.says(
        r"on (\d{4}-\d\d-\d\d) and (\d+), on layer 15 .*? That has ([\d,]+) tokens"
    )
    assert longest == len(ml.load_sample("smollm2"))
    for name in ("h100-attention-8x64", "h100-attention-runs-8x64", "h100-attention-runs-32x128"):
        assert record(name)["date"] in (first, f"{first[:8]}{int(last)}")
        for n, (_, _, source) in times(name).items():
            assert ("resampled" in source) == (n > longest)


def test_34_times_are_of_the_gpu_alone(book):
    assert book.says(r"(recorded once and replayed)") is not None
    for path in records("h100-attention*.json"):
        assert "--graphs" in record(path.stem)["command"]


def test_34_short_texts_do_not_pay(book, speedups):
    (pays,) = book.says(r"in all these records\) and 8 heads of 64 that is so up to ([\d,]+) tokens")
    for n, row in speedups[8, "k-means", 0].items():
        assert (row["speedup"] < 1) == (n <= pays)
    few, many, exact_few, exact_many = book.says(
        r"only grows from (\d+) to (\d+) µs, that of exact attention from (\d+) to (\d+)\."
    )
    found = times("h100-attention-8x64")
    assert (round(found[1024][0] * 1e3), round(found[4096][0] * 1e3)) == (few, many)
    assert (round(found[1024][1] * 1e3), round(found[4096][1] * 1e3)) == (exact_few, exact_many)


def test_34_runs_are_faster_than_k_means_and_err_more(book, speedups):
    least, most, least_wide, most_wide = book.says(
        r"([\d.]+) to ([\d.]+) times as fast as k-means with 8 heads of 64, ([\d.]+) to ([\d.]+) "
        r"times with 32"
    )
    for heads, bounds in ((8, (least, most)), (32, (least_wide, most_wide))):
        runs, means = speedups[heads, "runs", 0], speedups[heads, "k-means", 0]
        ratios = [runs[n]["speedup"] / means[n]["speedup"] for n in runs]
        assert (round(min(ratios), 1), round(max(ratios), 1)) == bounds
        assert all(runs[n]["rse"] > means[n]["rse"] for n in runs)
    larger, smaller = book.says(r"(\d+%) against (\d+%) at 4,096 real tokens")
    assert speedups[8, "runs", 0][4096]["rse"] == pytest.approx(larger, abs=0.005)
    assert speedups[8, "k-means", 0][4096]["rse"] == pytest.approx(smaller, abs=0.005)


def test_34_saved_time_buys_accuracy_up_to_16384_tokens(book, speedups):
    near_runs, near_means = book.says(r"4 near clusters have (\d+%) and k-means with 2 near ones (\d+%)")
    runs, means = speedups[8, "runs", 4], speedups[8, "k-means", 2]
    for n in (8192, 16384):
        assert runs[n]["rse"] == pytest.approx(near_runs, abs=0.005)
        assert means[n]["rse"] == pytest.approx(near_means, abs=0.005)
        assert runs[n]["speedup"] > means[n]["speedup"]
    book.says(r"At 65,536 they are (not): a sixteenth of the keys, read exactly, is quadratic")
    assert runs[65536]["speedup"] < means[65536]["speedup"]


def test_exercise_1_one_program_for_each_key_cluster(book):
    (programs,) = book.says(r"here \$1 \\cdot 1 \\cdot 8 \\cdot 1 = (\d)\$")
    names = book.cell("27").names
    arguments = [names[name] for name in ("points", "k", "v")] + [
        names["found"].order,
        names["found"].offsets,
        0.125,
    ]
    with patch("multipole_lab.kernels.muse.summarise.launch") as launch:
        names["summarise"](*arguments)
    assert launch.call_args.args[1] == (programs,)


def test_exercise_2_a_mask_after_the_maximum_loses_the_keys(book):
    right, wrong = map(float, book.solution(2)[0].printed.split())
    (said,) = book.says(r"instead of (-[\d.]+)\.")
    assert round(right, 1) == said
    assert wrong == -torch.inf


def test_exercise_3_how_many_points_keep_the_multipliers_busy(book):
    each, corner, points, enough, most, left = book.says(
        r"\$([\d.]+)\\,G\\,C_q\$ operations a byte, against (\d+) .*?: below (\d+) points .*? With "
        r"the (\d+) points "
        r"of the cell above this would be (\d+), .*? makes (\d+) of it"
    )
    D = 64
    assert each == 6 * D / (2 * 2 * D)
    assert round(PEAK / BANDWIDTH / each) == points
    names = book.cell("09").names
    assert names["G"] * names["C"] == enough
    assert each * enough == most
    done, moved = names["work"]["summaries of all clusters"]
    assert round(done / moved) == left
    assert round(PEAK / BANDWIDTH) == corner


def test_exercise_4_clusters_without_members_weigh_nothing(book):
    mass, mean = book.solution(4)[0].value
    assert mass[:2].tolist() == [-torch.inf, -torch.inf]
    assert mass[2:].isfinite().all()
    assert mean == 0


def test_16_halves_are_summed_with_32_bits(book):
    (power,) = book.says(r"relative squared error of about \$5 \\cdot 10\^\{-(\d)\}\$")
    ran = book.cell("28")
    halves = (x.half() for x in (ran.points, ran.k, ran.v))
    _, _, mean = ran.summarise(*halves, ran.found.order, ran.found.offsets, 0.125)
    p, k, v = (x[0, 0].double() for x in (ran.points, ran.k, ran.v))
    members = [ran.found.labels[0, 0] == j for j in range(8)]
    right = torch.stack([(0.125 * p @ k[m].T).softmax(1) @ v[m] for m in members], 1)
    wrong = (mean[0, 0].double() - right).square().sum() / right.square().sum()
    assert wrong.item() == pytest.approx(5 * 10.0**-power, rel=0.2)


def test_16_what_sums_in_16_bits_would_do(book):
    book.says(r"so few digits (lose a small term) in a large sum")
    for kind, large in ((torch.float16, 2048), (torch.bfloat16, 256)):
        one = torch.tensor(1, dtype=kind)
        assert large * one + one == large
    logit, rounded = book.says(r"`bfloat16` rounds a logit near (\d+) by up to (\d+\.\d+)")
    near = torch.linspace(logit - 1, logit + 1, 10_001)
    assert (near.bfloat16().float() - near).abs().max().item() == pytest.approx(rounded, abs=0.005)


def test_18_the_largest_cluster_without_and_with_a_cap(book):
    mean, largest, most = book.says(
        r"64 clusters of (\d+) keys in the mean\) has one of (\d+); with `cap=1.5` none is above (\d+)"
    )
    k = ml.load_sample("smollm2")[15].k
    assert k.shape[2] / 64 == mean
    assert ml.kmeans(k, clusters=64, iterations=5).counts.max() == largest
    assert ml.kmeans(k, clusters=64, iterations=5, cap=1.5).counts.max() == most


def test_63_what_each_kernel_takes(book):
    summaries, reading, whole, cap = book.says(
        r"a quarter of it \((\d+) and (\d+) of (\d+) µs\), the gradients the rest; .*? the cap "
        r"alone takes (\d+)"
    )
    found = dict(re.findall(r"(\w+) +([\d,]+) µs", book.cell("62").printed))
    found = {name: float(micro.replace(",", "")) for name, micro in found.items()}
    said = {"summarise": summaries, "evaluate": reading, "muse": whole, "capped_rounds": cap}
    assert {name: found[name] for name in said} == said
    assert (summaries + reading) / whole == pytest.approx(0.25, abs=0.01)
    times, call = book.says(
        r"takes ([\d.]+) times as long\. A call of .*?: (\d+) µs were recorded on an H200"
    )
    assert found["muse_dipole"] / whole == pytest.approx(times, abs=0.05)
    (row,) = (x for x in record("h200-muse-8x64")["rows"] if (x["method"], x["n"]) == ("MuSe()", 16_384))
    assert (round(row["ms"] * 1e3), row["heads"], row["causal"]) == (call, 8, False)
    assert summaries + reading < call / 2  # what finds clusters is the rest
    assert {"dipole", "leaf"} < set(found)
    rows = record("h200-kernels")["rows"]
    assert {(row["n"], tuple(row["heads"]), row["near"], row["source"]) for row in rows} == {
        (16_384, (8, 8), 0, "random normal")
    }


def test_34_which_gpus(book):
    least, dots = book.says(
        r"from compute capability ([\d.]+) on \(T4, RTX 20\), and use tensor cores from ([\d.]+) on"
    )
    assert (least // 1, round(10 * (least % 1))) == MIN_CAPABILITY
    guide = (FOLDER.parent / "docs/guides/gpu.md").read_text(encoding="utf-8")
    assert f"compute capability {dots} and up (A100, RTX 30 and later)" in guide
    assert "measured on one H100 and one H200" in guide
    assert "AMD, Apple (`mps`) | not tried" in guide


def test_12_which_capitals_are_compiled_and_which_are_of_the_call(book):
    prose = " ".join(next(cell.source for cell in book.cells if cell.id.endswith("-12")).split())
    compiled, called = re.search(
        r"Capitals are sizes\. (.*?\(`tl\.constexpr`\)).*?: another .*? kernel\. (.*)$", prose
    ).groups()
    kernel = book.cell("06").muse_summarise_kernel
    constants = {name for name, kind in kernel.fn.__annotations__.items() if "constexpr" in str(kind)}
    assert set(re.findall(r"`([A-Z]+)`", compiled)) == constants
    (sizes,) = re.findall(r"^ +([A-Z, ]+) = sizes$", inspect.getsource(kernel.fn), re.M)
    assert re.findall(r"`([A-Z]+)`", called) == sizes.split(", ")


def test_22_exp_is_compiled_to_a_power_of_two(book, tmp_path):
    book.says(r"makes of `tl\.exp\(x\)` a product with \$\\log_2 e\$ and an `(exp2)`")
    (tmp_path / "power.py").write_text(
        "import triton\n"
        "import triton.language as tl\n"
        "from triton.backends.compiler import GPUTarget\n"
        "from triton.compiler import ASTSource\n\n\n"
        "@triton.jit\n"
        "def power(x, y):\n"
        "    tl.store(y, tl.exp(tl.load(x)))\n\n\n"
        'source = ASTSource(power, {"x": "*fp32", "y": "*fp32"})\n'
        'print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])\n'
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(tmp_path / "power.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "ex2.approx" in run.stdout
    assert "0f3FB8AA3B" in run.stdout  # log2 e in 32 bits


def test_29_what_the_report_says_in_its_first_lines(book):
    book.says(r"`(spill)` the bytes of a thread for which there was no register")
    printed = book.cell("30").printed
    megabytes, operations, intensity = map(
        float, re.search(r"([\d.]+) MB +([\d.]+) Gop +([\d.]+) op/B", printed).groups()
    )
    assert 1e9 * operations / (1e6 * megabytes) == pytest.approx(intensity, rel=1e-3)
    names = re.search(r"^B=\d+ Hq=\d+ Hk=\d+ N=\d+ C=\d+ D=\d+", printed, re.M)
    assert names
    heads, of_keys, n, clusters, size = (int(x) for x in re.findall(r"=(\d+)", names[0])[1:])
    points = heads * clusters  # of all heads
    assert 1e9 * operations == pytest.approx(6 * n * size * points, rel=0.01)
    moved = 2 * (
        2 * of_keys * n * size + points * clusters * 2 * size
    )  # keys, values and summaries of 2 bytes
    assert 1e6 * megabytes == pytest.approx(moved, rel=0.03)


def test_01_how_fast_fast_memory_is(book):
    a_clock, processors, clock, speed, times, far = book.says(
        r"gives (\d+) bytes a clock to each of (\d+) multiprocessors: at ([\d.]+) GHz (\d+) · 10¹² "
        r"bytes a second, "
        r"(\d) times the ([\d.]+) · 10¹²"
    )
    fast = a_clock * processors * clock * 1e9
    assert (round(fast / 1e12), round(fast / BANDWIDTH), far * 1e12) == (speed, times, BANDWIDTH)


def test_12_and_20_sizes_that_triton_takes(book):
    import triton
    import triton.language as tl
    from triton.backends.nvidia.compiler import min_dot_size

    book.says(r"`tl\.arange` makes no (other) lengths")
    size, block = book.says(r"a head of (\d+) numbers takes a block of (\d+) with a mask")
    assert triton.next_power_of_2(int(size)) == block
    assert "range must be a power of 2" in inspect.getsource(sys.modules["triton.language.semantic"])
    (least,) = book.says(r"it has to sum over at least (\d+) numbers")
    assert min_dot_size(None)(tl.float16, tl.float16) == (1, 1, least)


def test_34_k_means_of_the_records_has_no_cap(book):
    book.says(r"\((`cap=None`) in all these records\)")
    rows = [row for path in records("h100-attention*.json") for row in record(path.stem)["rows"]]
    means = [method for row in rows if (method := parse_method(row["method"])).partition == "kmeans"]
    assert means
    assert all(method.cap is None for method in means)


def test_29_tiles_come_from_a_table_and_one_of_the_two_was_measured(book):
    measured, compiled = book.says(
        r"the one for `sm` (\d+) was measured on an H100, and the one for (\d+) was only compiled"
    )
    rows = {
        t.capability: find("summarise", t, 64, 2) for t in TARGETS if t.capability in (measured, compiled)
    }
    assert "H100" in rows[measured].measured.gpu
    assert rows[compiled].measured is None
    printed = book.cell("30").printed
    for capability, row in rows.items():
        assert re.search(
            rf"(?m)^ +{capability} .* {row.tile.rows}x{row.tile.cols} w{row.tile.warps} ", printed
        )


def test_63_what_is_left_to_gain(book):
    speed, *said = book.says(
        r"was measured too: ([\d.]+) · 10¹² bytes a second\. .*? `summarise` take (\d+) µs, and it "
        r"takes (\d+); those "
        r"of `evaluate` take (\d+), and it takes (\d+)"
    )
    found = record("h200-kernels")
    gigabytes = found["roofline"]["gigabytes"]
    assert gigabytes / 1e3 == pytest.approx(speed, abs=0.05)
    rows = {row["kernel"]: row for row in found["rows"]}
    micro = [
        (rows[name]["bytes"] / gigabytes / 1e3, 1e3 * rows[name]["ms"]) for name in ("summarise", "evaluate")
    ]
    assert [round(x) for pair in micro for x in pair] == said


def test_34_the_longest_recorded_text(book, speedups):
    tokens, times, near, near_times, more, less = book.says(
        r"At ([\d,]+) \(drawn\) tokens it is (\d+) times as fast, [^;]*; with (\d) near clusters (\d) "
        r"times, for an error of "
        r"(\d+%) instead of (\d+%)\."
    )
    plain, read = (speedups[8, "k-means", count][tokens] for count in (0, near))
    assert (round(plain["speedup"]), round(read["speedup"])) == (times, near_times)
    assert (read["rse"], plain["rse"]) == pytest.approx((more, less), abs=0.005)
    gains = [row["speedup"] for row in speedups[8, "k-means", 0].values()]
    assert (gains, gains[-1]) == (sorted(gains), plain["speedup"])


def test_12_how_numbers_of_32_bits_are_multiplied(book):
    here, there = book.says(
        r"as they are, `(\w+)`, or on tensor cores by three products of shorter ones, `(\w+)`\)"
    )
    book.cell("06")  # imports triton, interpreted
    from multipole_lab.kernels.common import launch

    assert launch.fp32_precision(torch.zeros(1)) == here
    with patch.object(launch, "is_recording", lambda: True), patch.object(launch, "target_of") as target:
        target.return_value.capability = 80
        assert launch.fp32_precision(torch.zeros(1)) == there


def test_61_evaluate_sums_summaries_and_near_keys_in_one_softmax(book):
    book.says(
        r"(a summary counts as a key with the logit \$a_\{ij\} \+ s\\,\(q - p_i\)\\cdot\\tilde k_\{ij\}\$)"
    )
    book.says(r"in the same running sums\. (So near and far need no merge)")
    ran = book.cell("27")
    from multipole_lab.kernels.muse.evaluate import muse_evaluate_kernel

    source = inspect.getsource(muse_evaluate_kernel.fn)
    far, near = source.split("# near: one term a key")
    assert "b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k)" in far
    for loop in (far, near):
        assert loop.count("b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v") == 1
    assert source.count("softmax_start") == 1
    q, k, v = (x[:, :1, :256] for x in (ran.layer.q, ran.k, ran.v))
    for near in (0, 2):  # the formula is in the tests of notebook 4, against torch
        by_torch, by_kernel = (
            ml.MuSe(clusters=8, near=near, partition="runs", backend=backend)(q, k, v)
            for backend in ("torch", "triton")
        )
        torch.testing.assert_close(by_torch, by_kernel, rtol=0, atol=1e-5)


def test_02_the_corner_of_an_h200(book):
    bandwidth, corner = book.says(
        r"with the same multipliers and \$([\d.]+) \\cdot 10\^\{12\}\$ bytes a second, has it at (\d+)\)"
    )
    assert round(PEAK / (bandwidth * 1e12)) == corner


def test_69_to_move_keys_would_take_longer_than_the_kernel(book):
    numbers, bits, side, moved, micro = book.says(
        r"a key of (\d+) numbers of (\d+) bits is (\d+) bytes side by side, .*? would move ([\d.]+) MB "
        r"\(([\d.]+) µs"
    )
    assert numbers * bits / 8 == side
    assert ml.load_sample("smollm2")[15].k.stride(-1) == 1
    names = book.cell("09").names
    copied = 2 * 2 * 2 * names["N"] * names["D"]  # keys and values, read and written, two bytes a number
    assert copied / 1e6 == pytest.approx(moved, abs=0.05)
    assert copied / BANDWIDTH * 1e6 == pytest.approx(micro, abs=0.05)
    operations, traffic = names["work"]["summaries of all clusters"]
    assert copied / BANDWIDTH > max(traffic / BANDWIDTH, operations / PEAK)
    book.says(r"(The order of a sum does not matter)")
    ran = book.cell("28")
    shuffled = ran.found.order.clone()
    for a, b in zip(ran.found.offsets[0, 0], ran.found.offsets[0, 0, 1:], strict=False):
        shuffled[0, 0, a:b] = ran.found.order[0, 0, a:b].flip(0)
    again = ran.summarise(ran.points, ran.k, ran.v, shuffled, ran.found.offsets, 0.125)
    torch.testing.assert_close(again[2], ran.mean_v, rtol=0, atol=1e-5)
    book.says(r"The cache of notebook 6 (does keep its keys sorted): it reads them at every step")
    from multipole_lab.decoding.settings import Settings
    from multipole_lab.decoding.store.hierarchy import Hierarchy

    layer = ml.load_sample("smollm2")[15]
    store = Hierarchy(Settings(levels=1, dense_until=0))
    store.append(layer.k, layer.v)
    store.join()
    fine = store.state().levels[0].rows()
    for head in range(3):
        spans = zip(
            fine.first[head, : fine.size].tolist(), fine.tokens[head, : fine.size].tolist(), strict=True
        )
        for j, (first, n) in list(enumerate(spans))[
            ::20
        ]:  # the members of a cluster are neighbours in memory
            mean = store.keys.view()[0, head, first : first + n].mean(0)
            torch.testing.assert_close(fine.keys[head, j], mean, rtol=0, atol=1e-5)


def test_exercise_3_a_tile_of_queries_does_as_many_operations_a_byte_as_it_has_queries(book):
    most, tile = book.says(
        r"The ([\d,]+) operations a byte above are the most: .*?: \$B_q\$ operations for a byte "
        r"that it asks for\. With \$B_q "
        r"= (\d+)\$ most"
    )
    names = book.cell("09").names
    N, D = names["N"], names["D"]
    operations, moved = names["work"]["exact, in one kernel"]
    assert operations / moved == most
    assert 4 * tile * D / (2 * 2 * D) == tile  # two bytes a number, of a key and of its value
    asked = N / tile * 2 * 2 * N * D
    assert operations / asked == tile
    assert asked / BANDWIDTH > 2 * operations / PEAK  # so most of them must not come from the large memory


def test_65_what_a_fair_clock_needs(book):
    kernels, turns = book.says(
        r"the fastest of (\w+) exact kernels \(cuDNN's, in every row\)\. .*? the median of (\w+) turns taken"
    )
    for path in records("h100-attention*.json"):
        found = record(path.stem)
        assert f"--repeats {int(turns)} " in found["command"]
        assert found["dtype"] == "bfloat16"
        assert len({found["date"]}) == 1
        for row in found["rows"]:
            assert len(row["sides"]) == kernels
            assert row["reference"] == min(row["sides"], key=row["sides"].get) == "cudnn"
            assert (row["backward"], row["graphs"]) == (False, True)
            nbytes = 3 * row["n"] * row["heads"] * row["dim"] * 2
            assert row["copies"] == 32 or row["copies"] * nbytes > 2 * 50e6  # twice the cache of an H100
            assert not {"spread", "p99_ms", "least_ms"} & set(row)  # nine turns left their median alone
    from multipole_lab.bench.attention import measure
    from multipole_lab.measure.timing import interleaved

    source = inspect.getsource(measure)
    assert "method(q, k, v, causal=args.causal)" in source  # the whole call, clusters included
    assert "Exact()(*(x.float() for x in (q, k, v))" in source
    called = []
    clock = "multipole_lab.measure.timing._wall_ms"
    with patch(
        clock, side_effect=lambda call: called.append(call()) or (99.0, 3.0, 1.0, 2.0)[len(called[::2]) - 1]
    ):
        found = interleaved({"a": lambda: "a", "b": lambda: "b"}, repeats=3, warmup=1)
    assert called == ["a", "b"] * 4
    assert found == {"a": 2.0, "b": 2.0}


def test_66_the_times_at_the_longest_text(book):
    ours, exact = book.says(r"it is 27 times as fast, ([\d.]+) ms against ([\d.]+);")
    found = times("h100-attention-8x64")
    assert max(found) == 65_536
    assert found[65_536][:2] == (pytest.approx(ours, abs=0.005), pytest.approx(exact, abs=0.05))


def test_68_one_query_is_cut_into_chunks_and_merged(book):
    heads, processors, each = book.says(
        r"as there are key heads: (\w+) for a Llama, where an H100 has (\d+) multiprocessors\. .*?, "
        r"(\w+) chunks for each"
    )
    assert heads < processors
    ran = book.cell("28")
    from multipole_lab.kernels.decode.attend import chunk_size
    from multipole_lab.kernels.decode.merge import decode_merge

    work = 64 * 3 * int(processors)
    assert work / chunk_size(work, 16, int(processors)) == each * processors
    q, k, v = ran.points[0, 0, :1], ran.k[0, 0], ran.v[0, 0]
    logits = (0.125 * q @ k.T).split(50, -1)  # chunks of 50 keys, the last one shorter
    outs = torch.stack([x.softmax(-1) @ y for x, y in zip(logits, v.split(50), strict=True)])[None]
    sums = torch.stack([x.logsumexp(-1) for x in logits])[None]
    out, total = decode_merge(outs.contiguous(), sums.contiguous(), torch.float32)
    torch.testing.assert_close(out[0], (0.125 * q @ k.T).softmax(-1) @ v, rtol=0, atol=1e-5)
    torch.testing.assert_close(total[0], (0.125 * q @ k.T).logsumexp(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(total, sums.logsumexp(1))
