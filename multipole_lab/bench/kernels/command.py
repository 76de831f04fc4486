"""`multipole-lab bench kernels`: every kernel's time, error and share of the measured roofline of the device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from multipole_lab.bench.record import Record, add_json
from multipole_lab.devices import missing_device

DTYPES = ("float16", "bfloat16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add("--device", default="cuda", help="default: cuda; cpu only tries the code, under TRITON_INTERPRET=1")
    add("--n", type=int, default=8192, help="queries and keys; default: 8192")
    add("--heads", type=int, nargs=2, default=[32, 8], metavar=("HQ", "HK"), help="default: 32 8")
    add("--head-size", type=int, default=128, help="of random inputs; default: 128")
    add("--clusters", type=int, default=64)
    add("--near", type=int, default=4)
    add("--rank", type=int, default=8, help="directions of the dipole; default: 8")
    add("--dtype", choices=DTYPES, default="float16")
    add("--sample", default="random", help="a captured sample to draw heads from; default: random")
    add("--only", default="", help="kernels whose name contains this")
    add("--repeats", type=int, default=20)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row for each kernel; 1 where one failed."""
    import os

    import torch

    from multipole_lab.measure.roofline import measure_roofline

    if problem := missing_device(args.device):
        print(f"multipole-lab bench kernels: {problem}", file=sys.stderr)
        return 2
    if args.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        print("multipole-lab bench kernels: kernels run on a GPU (--device cuda); on a CPU only their code can be "
              "tried, interpreted and slowly, with TRITON_INTERPRET=1 in the environment", file=sys.stderr)  # fmt: skip
        return 2
    torch.manual_seed(0)
    roof = measure_roofline(args.device, getattr(torch, args.dtype))
    record = Record(args.json, args.device, args.dtype, roofline=roof.row())
    record.note(f"measured: copy {roof.gigabytes:.0f} GB/s, {args.dtype} product {roof.teraops:.1f} Top/s")
    failed = 0
    try:
        for row, text in rows(args, roof):
            record.add(row, text)
            failed += "failed" in row
    except (ValueError, TypeError, OSError) as error:
        print(f"multipole-lab bench kernels: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def rows(args: argparse.Namespace, roof) -> Iterator[tuple[dict, str]]:
    """A row and its text for each kernel."""
    from multipole_lab.kernels.report.table import ENTRIES

    costs = {entry.name: entry.cost for entry in ENTRIES}
    for problem, source, case in cases(args):
        moved, operations = costs[case.kernel](problem)
        try:
            times, copies, graph = time_case(case, args)
            found = case.error(case.call(*case.inputs))
        except (
            RuntimeError
        ) as problem_found:  # too little memory for a reference, for example: the others go on
            message = " ".join(f"{problem_found}".split())[:200]
            yield {"kernel": case.kernel, "failed": message}, f"{case.kernel:16} failed: {message}"
            continue
        ms = times.pop("kernel")
        share = roof.share(moved, operations, ms)
        row = {
            "kernel": case.kernel, "ms": ms, "bytes": moved, "operations": operations, "share": share,
            "error": found, "torch_ms": times.get("torch"), "dtype": args.dtype, "n": problem.keys,
            "heads": args.heads, "head_size": problem.head, "clusters": problem.clusters, "near": problem.near,
            "rank": problem.rank, "copies": copies, "graph": graph, "source": source,
        }  # fmt: skip
        yield row, text_of(row)


def cases(args: argparse.Namespace) -> Iterator[tuple]:
    """(problem, source, case) for each kernel whose name contains ``args.only``."""
    import torch

    from multipole_lab.bench.kernels.cases import clustering_cases, muse_cases, setting
    from multipole_lab.bench.kernels.cases_decode import decode_cases
    from multipole_lab.bench.kernels.cases_runs import runs_cases
    from multipole_lab.kernels.report.problem import Problem
    from multipole_lab.measure.inputs import heads_of

    Hq, Hk = args.heads
    q, k, v, source = heads_of(args.sample, None, Hq, args.n, args.head_size)
    k, v = (x[:, :: Hq // Hk] for x in (k, v))
    dtype = getattr(torch, args.dtype)
    q, k, v = (x.to(args.device, dtype).contiguous() for x in (q, k, v))
    p = Problem(
        query_heads=Hq, kv_heads=Hk, queries=args.n, keys=args.n, head=q.shape[-1], clusters=args.clusters,
        near=args.near, rank=args.rank, dtype=dtype,
    )  # fmt: skip
    s = setting(p, q, k, v)
    with torch.set_grad_enabled(True):
        for found in (
            clustering_cases(s),
            muse_cases(s),
            runs_cases(s),
            decode_cases(p, q[:, :, -1:], k, v),
        ):
            for case in found:
                if args.only in case.kernel:
                    yield p, source, case


def time_case(case, args: argparse.Namespace) -> tuple[dict[str, float], int, bool]:
    """Milliseconds a call of the kernel and of torch's way, how many copies of the inputs, and whether in a graph."""
    from multipole_lab.measure.cold_inputs import copies_of
    from multipole_lab.measure.graphs import as_graph
    from multipole_lab.measure.timing import interleaved

    sets = copies_of(case.inputs)
    calls = {"kernel": case.call} | ({"torch": case.plain} if case.plain else {})
    sides = {name: through(call, sets) for name, call in calls.items()}
    graph = case.inputs[0].is_cuda
    if graph:
        try:
            sides = {name: as_graph(side) for name, side in sides.items()}
        except RuntimeError:  # torch's way may wait for the device; then the host's part is in both times
            graph = False
    times = interleaved(sides, args.repeats, warmup=3 if graph else 0, device=args.device)
    return {name: ms / len(sets) for name, ms in times.items()}, len(sets), graph


def through(call: Callable, sets: list[tuple]) -> Callable[[], None]:
    """One call for each set of inputs."""

    def all_sets() -> None:
        for inputs in sets:
            call(*inputs)

    return all_sets


def text_of(row: dict) -> str:
    """A row as a line."""
    torch_ms = f"torch {row['torch_ms']:9.4f} ms" if row["torch_ms"] else ""
    return (
        f"{row['kernel']:16} {row['ms']:9.4f} ms  {row['bytes'] / row['ms'] / 1e6:8.1f} GB/s "
        f"{row['operations'] / row['ms'] / 1e9:8.2f} Top/s  {row['share']:6.1%} of the roofline  "
        f"error {row['error']:.1e}  {torch_ms}"
    )
