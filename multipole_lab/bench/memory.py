"""`multipole-lab bench memory`: peak extra memory of one call, and how time grows with length.

Each length runs in a process of its own, whose peak resident size the kernel keeps; what was resident before the
call is taken off.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys

from multipole_lab.bench.record import Record, add_json

CHILD = """
import json, resource, sys, time
import torch
import multipole_lab as ml
def peak_kib():  # of this program alone: ru_maxrss counts what the process that started it held
    try:
        with open("/proc/self/status") as status:
            return int(status.read().partition("VmHWM:")[2].split()[0])
    except OSError:  # macOS, whose numbers are bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
n, heads, dim, causal, clusters = (int(x) for x in sys.argv[1:6])
method = ml.MuSe(clusters=clusters)
warm = [torch.randn(1, 1, 256, dim) for _ in range(3)]
method(*warm, causal=bool(causal))  # code and operators are loaded before the count starts
q, k, v = (torch.randn(1, heads, n, dim) for _ in range(3))
before = peak_kib()
start = time.perf_counter()
out = method(q, k, v, causal=bool(causal))
seconds = time.perf_counter() - start
peak = peak_kib()
inputs = sum(x.numel() * x.element_size() for x in (q, k, v, out))
print(json.dumps({"n": n, "seconds": seconds, "extra_bytes": (peak - before) * 1024, "io_bytes": inputs}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add("--n", type=int, nargs="+", default=[8192, 16384, 32768, 65536])
    add("--heads", type=int, default=8)
    add("--dim", type=int, default=64)
    add("--clusters", type=int, default=64)
    add("--causal", action="store_true")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each length and the exponent fitted to their times."""
    record = Record(args.json, "cpu", "float32", heads=args.heads, dim=args.dim)
    rows = []
    for n in args.n:
        command = [sys.executable, "-c", CHILD, n, args.heads, args.dim, int(args.causal), args.clusters]
        done = subprocess.run([str(x) for x in command], check=True, capture_output=True, text=True)
        row = json.loads(done.stdout) | {"causal": args.causal, "clusters": args.clusters}
        row["ratio"] = row["extra_bytes"] / row["io_bytes"]
        rows.append(row)
        record.add(
            row,
            f"n {n:7d}: {row['seconds']:7.3f} s, extra memory {row['extra_bytes'] / 1e6:8.1f} MB, "
            f"{row['ratio']:.2f} times q, k, v and the output",
        )
    if len(rows) > 1:
        exponent = slope([r["n"] for r in rows], [r["seconds"] for r in rows])
        record.add({"exponent": exponent}, f"time grows as n^{exponent:.2f}")
    return 0


def slope(x: list[float], y: list[float]) -> float:
    """The exponent of a power law fitted to (x, y) by least squares of the logarithms."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    return sum((u - ma) * (w - mb) for u, w in zip(a, b, strict=True)) / sum((u - ma) ** 2 for u in a)
