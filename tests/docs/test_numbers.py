"""Numbers and programs of the guides: by length, costs, when a step pays, two processes, a panel of one's own."""

import dataclasses
import math
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import multipole_lab as ml
from multipole_lab.bench.recorded import record
from multipole_lab.measure.operation_counts import operations, share_of_exact
from multipole_lab.method_text import parse_method

GUIDES = Path(__file__).resolve().parents[2] / "docs/guides"


def words(name):
    return " ".join((GUIDES / f"{name}.md").read_text(encoding="utf-8").split())


def by_length():
    """The rows of the tables: tokens, attention, method, speed, error, record."""
    part = (GUIDES / "choosing.md").read_text(encoding="utf-8").split("## By length")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if "` |" in line
    ]
    return [row for row in rows if len(row) == 6 and row[-1]]


def settled(text):
    """The method with the leaf of the records, as a value to compare."""
    return dataclasses.replace(parse_method(text), leaf=1024)


@pytest.mark.parametrize(("tokens", "attention", "take", "speed", "error", "name"), by_length())
def test_what_is_advised_by_length_is_recorded(tokens, attention, take, speed, error, name):
    found = record(name.strip("`"))
    (method,) = re.findall(r"`(MuSe\(.*?\))`", take)
    (row,) = [
        row
        for row in found["rows"]
        if f"{row['n']:,}" == tokens
        and row["causal"] == (attention == "causal")
        and settled(row["method"]) == settled(method)
    ]
    number, digits = re.match(r"(\d+(?:\.(\d+))?)x", speed).groups()
    assert number == f"{row['speedup']:.{len(digits or '')}f}"
    digits = len(re.fullmatch(r"\d+(?:\.(\d+))?%", error)[1] or "")
    assert error == f"{100 * row['rse']:.{digits}f}%"
    assert row.get("graphs", False) == ("graph" in speed)
    assert (row["heads"], row["dim"]) == (8, 64)


def test_all_lengths_that_are_asked_for_are_there():
    rows = by_length()
    assert {row[0] for row in rows} == {"4,096", "8,192", "16,384", "65,536"}
    assert {row[-1].strip("`").split("-")[0] for row in rows} == {"h100", "h200", "cpu"}


def test_real_causal_errors_are_so_many_times_those_of_drawn_tokens():
    text = (GUIDES / "choosing.md").read_text(encoding="utf-8")
    part = text.split("| method | full, real | drawn | causal, real | drawn |")[1].split("\n\n")[0]
    cells = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| `")]
    ratios = [float(row[3].strip(" %")) / float(row[4].strip(" %")) for row in cells]
    assert len(ratios) == 11
    found = re.findall(r"([\d.]+) to (\d) times (?:as large|those of drawn)", " ".join(text.split()))
    assert {(float(least), int(most)) for least, most in found} == {
        (round(min(ratios), 1), round(max(ratios)))
    }
    assert len(found) == 2


def test_the_errors_of_longer_leaves_are_recorded():
    part = (GUIDES / "choosing.md").read_text(encoding="utf-8").split("cpu-real-tokens-leaves.json`):")[1]
    lines = [
        line.strip("|").split("|")
        for line in part.split("**Longer texts**")[0].splitlines()
        if line.startswith("| `")
    ]
    rows = record("cpu-real-tokens-leaves")["rows"]
    for method, *errors in lines:
        for n, error in zip((8192, 16384), errors, strict=True):
            said = parse_method(method.strip(" `"))
            (row,) = [r for r in rows if r["tokens"] == n and parse_method(r["method"]) == said]
            assert error.strip() == f"{100 * row['error']:.2f}%"
    assert len(lines) == 5


@pytest.mark.parametrize("near", [0, 4])
@pytest.mark.parametrize("N", [16384, 65536])
def test_the_formulas_of_costs_are_those_that_are_counted(N, near):
    C, D, L, t, c = 64, 64, 1024, 1, 1.5
    method = ml.MuSe(clusters=C, near=near, leaf=L)
    full = (2 * t + 7) * N * C * D + 2 * c * near * N**2 * D / C
    assert operations(method, N) == pytest.approx(full, rel=1e-6)
    causal = math.log2(N / L) / 2 * (2 * t + 7) * N * C * D + c * near * N**2 * D / C + N * L * D
    got = operations(method, N, causal=True)
    assert got == pytest.approx(causal, rel=0.03)
    assert got < causal * 1.001  # near clusters of the leaves are not counted


def test_the_best_number_of_clusters_is_where_the_formula_says():
    said = [
        int(x)
        for x in re.search(
            r"at 65,536 tokens (\d+) clusters \(full\), (\d+) \(causal", words("costs")
        ).groups()
    ]
    for causal, number in zip((False, True), said, strict=True):
        of = {
            C: operations(ml.MuSe(clusters=C, near=4, leaf=1024), 65536, causal=causal)
            for C in range(60, 420, 4)
        }
        assert min(of, key=of.get) == pytest.approx(number, abs=8)
        N = 65536 / (math.log2(65536 / 1024) if causal else 1)
        assert number == round(math.sqrt(2 * 1.5 * 4 * N / 9))


def test_shares_bytes_and_peaks_of_costs():
    text = words("costs")
    shares = [share_of_exact(ml.MuSe(), 2048, heads=heads, kv_heads=kv) for heads, kv in ((1, 1), (9, 3))]
    assert f"`MuSe()` has {shares[0]:.0%} of exact attention's operations" in text
    assert f"and {shares[1]:.0%} where three share them" in text
    N, H, D, C = 65536, 8, 64, 64
    sizes = [2 * H * N * D / 1e6, 4 * H * N / 1e6, 4 * H * 2 * C * C * D / 1e6]
    said = re.search(
        r"take (\d+) MB each .*? exact attention (\d+) MB besides .*?`MuSe\(\)` (\d+) MB", text
    ).groups()
    assert [int(x) for x in said] == [round(x) for x in sizes]
    rows = {(row["what"], row["causal"]): row for row in record("parallel-h200-local")["rows"]}
    exact, muse = rows["one GPU, torch", False], rows["one GPU, MuSe, kmeans", False]
    assert f"was {exact['forward_mib']} MiB for exact attention" in text
    assert f"{muse['forward_mib']} MiB for `MuSe()`" in text
    both = f"{exact['forward_backward_mib']:,} and {muse['forward_backward_mib']:,} MiB"
    assert both in text
    assert exact["forward_mib"] == 2 * H * 131072 * D / 2**20


def test_when_a_step_pays_is_recorded():
    text = words("uses")
    rows = {row["side"]: row for row in record("h200-generate-32768")["rows"]}
    ours, eager = rows["MultipoleCache(0.05, 1 level), compiled"], rows["MultipoleCache(0.05, 1 level)"]
    dense = rows["DynamicCache"]["median_ms"], rows["StaticCache, compiled"]["median_ms"]
    first = f"the first step took {ours['first_step_ms']:.0f} ms"
    assert f"took {ours['median_ms']:.1f} ms in the middle" in text
    assert "a dense one took {:.1f} ms eager and {:.1f} ms compiled; {}".format(*dense, first) in text
    assert f"ours took {eager['median_ms']:.1f} ms" in text
    far = {row["side"]: row["median_ms"] for row in record("h200-generate-131072-eager")["rows"]}
    far = far["MultipoleCache(0.05, 2 levels)"], far["DynamicCache"]
    assert "8 layers: {:.1f} ms against {:.1f}".format(*far) in text


def block(page, begins):
    """The block of Python on a page that begins so."""
    blocks = re.findall(
        r"```python\n(.*?)```", (GUIDES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (found,) = [one for one in blocks if begins in one]
    return found


@pytest.mark.slow
def test_the_script_for_two_processes_runs(tmp_path):
    (tmp_path / "two.py").write_text(block("parallel", "dist.init_process_group"), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "two.py",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    for rank in (0, 1):
        assert float(re.search(rf"rank {rank}: error ([\d.]+)%", run.stdout)[1]) < 5
        assert f"rank {rank}: logits (1, 512, 99)" in run.stdout


def test_the_panel_of_ones_own_draws():
    code, _, last = block("uses", "class Leaves(Panel)").rstrip().rpartition("\n")
    space = vars(types.ModuleType("shown"))
    exec(code, space)
    panel = eval(last, space)
    assert list(panel.table()) == ["leaf", "error"]
    errors = panel.table()["error"]
    assert errors[0] > errors[-1] > 0
    assert len(panel.figure().data) == 1


PRODUCTS = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def square(A, C):
    at = tl.arange(0, 32)[:, None] * 32 + tl.arange(0, 32)[None, :]
    a = tl.load(A + at)
    tl.store(C + at, tl.dot(a, a))


for dtype in ("fp16", "bf16"):
    for capability in (75, 80):
        source = ASTSource(fn=square, signature={"A": f"*{dtype}", "C": "*fp32"}, constexprs={})
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        print(dtype, capability, "mma.sync" in made.asm["ptx"])
"""


def test_on_a_t4_products_have_no_tensor_cores_in_either_half_precision(tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "products.py").write_text(PRODUCTS)
    surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "products.py"], cwd=tmp_path, env=surroundings,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert run.stdout.split("\n")[:4] == ["fp16 75 False", "fp16 80 True", "bf16 75 False", "bf16 80 True"]
