"""`multipole-lab bench attention`: MuSe or Centroid against every exact attention, interleaved in one run."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING

from multipole_lab import renamed
from multipole_lab.bench.record import Record, add_json
from multipole_lab.devices import missing_device

if TYPE_CHECKING:
    import pandas

DTYPES = ("float32", "float16", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    lengths = [1024, 2048, 4096, 8192]
    add("--n", type=int, nargs="+", default=lengths, metavar="N", help="tokens, one row for each")
    add("--heads", type=int, default=8, help="query and key/value heads; default: 8")
    add(
        "--dim",
        type=int,
        help="head size; default: the sample's own (a multiple puts heads side by side), or 64",
    )
    add("--dtype", choices=DTYPES, help="default: float32; on a GPU bfloat16, below 8.0 float16")
    add("--causal", action="store_true", help="causal attention instead of full")
    add("--backward", action="store_true", help="time forward and backward together")
    add(
        "--sample",
        default="smollm2",
        help="a captured sample to draw heads from, or 'random'; default: smollm2",
    )
    add("--layer", type=int, default=None, help="layer of the sample; default: its middle one")
    add("--method", choices=("muse", "centroid"), default="muse", help="default: muse")
    add("--clusters", default="64", help="a number or 'auto'; default: 64")
    add("--query-clusters", type=int, help="of the queries (MuSe); default: as many as of the keys")
    add("--cap", type=_cap, default=1.5, help="a number of at least 1 or 'none'; default: 1.5")
    add("--iterations", type=int, default=1)
    add("--order", choices=("monopole", "dipole"), default="monopole")
    add("--dipole-rank", type=int, default=None)
    add("--near", type=int, default=0)
    add("--budget", type=int, default=0, help="centroid: tokens a query sums exactly; default: 0")
    add("--sinks", type=int, default=0)
    add(
        "--leaf",
        type=int,
        help="causal blocks of at most this many positions are exact; default: the method's own",
    )
    add(
        "--partition",
        type=partial(renamed.value, "partition"),
        choices=("kmeans", "balanced", "runs"),
        default="kmeans",
    )
    add("--backend", choices=("auto", "torch", "triton"), default="auto")
    add("--device", default="cpu")
    add("--graphs", action="store_true", help="on cuda: time CUDA graphs, in which the host takes no part")
    add("--repeats", type=int, default=5, help="timed turns a side; default: 5")
    add("--seed", type=int, default=0)
    add_json(parser)


def _cap(text: str) -> float | None:
    return None if text == "none" else float(text)


def run(args: argparse.Namespace) -> int:
    """Print a row for each length."""
    from multipole_lab.measure.precision import default_dtype_name

    if problem := missing_device(args.device):
        print(f"multipole-lab bench attention: {problem}", file=sys.stderr)
        return 2
    args.dtype = args.dtype or default_dtype_name(args.device)
    record = Record(args.json, args.device, args.dtype, heads=args.heads, causal=args.causal)
    try:
        method = method_of(args)
        record.note(f"{method}; the error is against exact attention in float32")
        for n in args.n:
            row = measure(args, method, n)
            record.add(row, text_of(row))
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"multipole-lab bench attention: {error}", file=sys.stderr)
        return 2
    return 0


def measured(options: str) -> pandas.DataFrame:
    """What ``multipole-lab bench attention`` with these options measures here and now, as a table.

    Parameters
    ----------
    options : as one would type them, such as ``"--device cuda --graphs --n 4096 8192"``.

    Returns
    -------
    A row for each length, as in its JSON, and a column ``name``: "live", the device and the precision.

    Raises
    ------
    ValueError, TypeError, RuntimeError : what the benchmark would refuse, or a device that is not there.
    """
    import pandas

    from multipole_lab.environment import Measured
    from multipole_lab.measure.precision import default_dtype_name

    parser = argparse.ArgumentParser("bench attention")
    add_arguments(parser)
    args = parser.parse_args(shlex.split(options))
    if problem := missing_device(args.device):
        raise ValueError(problem)
    args.dtype = args.dtype or default_dtype_name(args.device)
    method = method_of(args)
    table = pandas.DataFrame([measure(args, method, n) for n in args.n])
    return table.assign(name=f"live: {Measured.here(args.device, args.dtype).words}")


def method_of(args: argparse.Namespace):
    """The approximation that is timed."""
    from multipole_lab.attention import Centroid, MuSe

    shared = {
        name: getattr(args, name) for name in ("cap", "iterations", "sinks", "partition", "seed", "backend")
    }
    if args.leaf is not None:
        shared["leaf"] = args.leaf
    shared["clusters"] = args.clusters if args.clusters == "auto" else int(args.clusters)
    if args.method == "centroid":
        return Centroid(**shared, budget=args.budget)
    rank = {} if args.dipole_rank is None else {"dipole_rank": args.dipole_rank}
    return MuSe(**shared, order=args.order, near=args.near, query_clusters=args.query_clusters, **rank)


def measure(args: argparse.Namespace, method, n: int) -> dict:
    """Milliseconds of every side at one length, the speedup over the fastest exact one, and the error."""
    import torch

    from multipole_lab.attention import Exact
    from multipole_lab.measure.cold_inputs import copies_of, cycled
    from multipole_lab.measure.errors import relative_squared_error
    from multipole_lab.measure.exact_sides import exact_sides
    from multipole_lab.measure.graphs import as_graph
    from multipole_lab.measure.inputs import heads_of
    from multipole_lab.measure.timing import interleaved

    *heads, source = heads_of(args.sample, args.layer, args.heads, n, args.dim, args.seed)
    q, k, v = (x.to(args.device, getattr(torch, args.dtype)) for x in heads)
    calls, skipped = exact_sides(q, k, v, args.causal, args.backward)
    calls["approximate"] = lambda q, k, v: method(q, k, v, causal=args.causal)
    if args.backward:
        upstream = torch.randn(*q.shape[:-1], v.shape[-1], device=q.device, dtype=q.dtype)

        def with_gradients(call):
            return lambda *x: torch.autograd.grad(call(*x), x, upstream)

        calls = {name: with_gradients(call) for name, call in calls.items()}
    sets = copies_of([x.requires_grad_(args.backward) for x in (q, k, v)])
    sides = {name: cycled(call, sets) for name, call in calls.items()}
    with torch.set_grad_enabled(args.backward):
        if args.graphs and q.is_cuda:
            sides = {name: as_graph(side) for name, side in sides.items()}
        times = interleaved(sides, args.repeats, warmup=len(sets) if q.is_cuda else 1, device=args.device)
    with torch.no_grad():
        exact = Exact()(*(x.float() for x in (q, k, v)), causal=args.causal)
        error = relative_squared_error(method(q, k, v, causal=args.causal), exact).item()
    ms = times.pop("approximate")
    best = min(times, key=times.get)
    return {
        "method": str(method), "n": n, "heads": args.heads, "dim": q.shape[-1], "dtype": args.dtype,
        "causal": args.causal, "backward": args.backward, "graphs": args.graphs, "source": source,
        "copies": len(sets), "reference": best, "exact_ms": times[best], "ms": ms, "speedup": times[best] / ms,
        "rse": error, "sides": times, "skipped": skipped,
    }  # fmt: skip


def text_of(row: dict) -> str:
    """A row as a line, and a line for each side that was left out."""
    others = "  ".join(f"{name} {ms:.3f}" for name, ms in row["sides"].items())
    lines = [
        f"n {row['n']:7d}  {row['ms']:9.3f} ms  x{row['speedup']:.2f} over {row['reference']}  rse {row['rse']:.2e}  "
        f"exact ms: {others}  ({row['source']})"
    ]
    return "\n".join(lines + [f"  {name} left out: {why}" for name, why in row["skipped"].items()])
