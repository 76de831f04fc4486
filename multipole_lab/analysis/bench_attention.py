"""`multipole-lab bench attention`: MuSe against torch's scaled_dot_product_attention, interleaved in one run."""

from __future__ import annotations

import argparse
import json
import sys

DTYPES = ("float32", "float16", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add(
        "--n",
        type=int,
        nargs="+",
        default=[1024, 2048, 4096, 8192],
        metavar="N",
        help="tokens, one row for each",
    )
    add("--heads", type=int, default=8, help="query and key/value heads; default: 8")
    add("--dim", type=int, default=64, help="head size of random inputs; default: 64")
    add("--dtype", choices=DTYPES, default="float32")
    add("--causal", action="store_true", help="causal attention instead of full")
    add("--backward", action="store_true", help="time forward and backward together")
    add(
        "--sample",
        default="smollm2",
        help="a captured sample to draw heads from, or 'random'; default: smollm2",
    )
    add("--layer", type=int, default=None, help="layer of the sample; default: its middle one")
    add("--clusters", default="64", help="a number or 'auto'; default: 64")
    add("--cap", type=float, default=1.5)
    add("--iterations", type=int, default=1)
    add("--order", choices=("monopole", "dipole"), default="monopole")
    add("--dipole-rank", type=int, default=None)
    add("--near", type=int, default=0)
    add("--sinks", type=int, default=0)
    add("--leaf", type=int, default=1024)
    add("--partition", choices=("kmeans", "balanced", "spatial"), default="kmeans")
    add("--backend", choices=("auto", "torch", "triton"), default="auto")
    add("--device", default="cpu")
    add("--repeats", type=int, default=5, help="timed turns a side; default: 5")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="one JSON object a line instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print a row for each length."""
    import torch

    from multipole_lab.analysis.timing import machine

    try:
        rows = list(measure(args))
    except (ValueError, TypeError, RuntimeError) as error:
        print(f"multipole-lab bench attention: {error}", file=sys.stderr)
        return 2
    if args.json:
        return 0
    print(f"{machine()}, torch {torch.__version__}, {args.heads} heads, {args.dtype}, {rows[0]['source']}")
    print(f"{'n':>8} {'exact ms':>10} {'ms':>10} {'speedup':>8} {'rse':>10}")
    for row in rows:
        print(
            f"{row['n']:8d} {row['exact_ms']:10.2f} {row['ms']:10.2f} {row['speedup']:8.2f} {row['rse']:10.2e}"
        )
    return 0


def measure(args: argparse.Namespace):
    """A dict for each length, printed as JSON where asked as soon as it is there."""
    import torch

    from multipole_lab.analysis.errors import relative_squared_error
    from multipole_lab.analysis.inputs import heads_of
    from multipole_lab.analysis.references import fastest_reference
    from multipole_lab.analysis.timing import interleaved, machine
    from multipole_lab.attention import Exact, MuSe

    method = MuSe(
        clusters=args.clusters if args.clusters == "auto" else int(args.clusters),
        cap=args.cap, iterations=args.iterations, order=args.order, near=args.near, sinks=args.sinks,
        leaf=args.leaf, partition=args.partition, seed=args.seed, backend=args.backend,
        **({} if args.dipole_rank is None else {"dipole_rank": args.dipole_rank}),
    )  # fmt: skip
    dtype = getattr(torch, args.dtype)
    for n in args.n:
        q, k, v, source = heads_of(args.sample, args.layer, args.heads, n, args.dim, args.seed)
        q, k, v = (x.to(args.device, dtype) for x in (q, k, v))
        name, exact = fastest_reference(q, k, v, args.causal)
        upstream = torch.randn(*q.shape[:-1], v.shape[-1], device=q.device, dtype=dtype)

        def approximate(q=q, k=k, v=v):
            return method(q, k, v, causal=args.causal)

        sides = {"exact": exact, "approximate": approximate}
        if args.backward:
            for x in (q, k, v):
                x.requires_grad_()
            sides = {
                side: lambda call=call, inputs=(q, k, v), up=upstream: torch.autograd.grad(call(), inputs, up)
                for side, call in sides.items()
            }
        with torch.set_grad_enabled(args.backward):
            times = interleaved(sides, repeats=args.repeats, device=args.device)
        with torch.no_grad():
            error = relative_squared_error(
                method(q, k, v, causal=args.causal), Exact()(q, k, v, causal=args.causal)
            ).item()
        row = {
            "method": str(method), "n": n, "heads": args.heads, "dim": q.shape[-1], "dtype": args.dtype,
            "causal": args.causal, "backward": args.backward, "device": machine() if args.device == "cpu" else
            torch.cuda.get_device_name(), "source": source, "reference": name, "exact_ms": times["exact"],
            "ms": times["approximate"], "speedup": times["exact"] / times["approximate"], "rse": error,
        }  # fmt: skip
        if args.json:
            print(json.dumps(row), flush=True)
        yield row
