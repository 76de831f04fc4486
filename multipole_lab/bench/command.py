"""`multipole-lab bench`: timings as commands, both sides in turns, error beside every time."""

from __future__ import annotations

import argparse
import importlib

BENCHES = {  # name: (module, what --help says of it)
    "kernels": (
        "multipole_lab.bench.kernels.command",
        "every kernel: time, error, share of the measured roofline",
    ),
    "attention": ("multipole_lab.bench.attention", "exact against approximate attention"),
    "decode": (
        "multipole_lab.bench.decode.cpu",
        "one decoding step over a clustered cache against dense; on a GPU the kernels in CUDA graphs",
    ),
    "generate": (
        "multipole_lab.bench.decode.generate",
        "tokens of model.generate with a clustered cache, beside dense caches, eager and compiled",
    ),
    "kmeans": (
        "multipole_lab.bench.kmeans",
        "the lab's k-means against scikit-learn's or flash-kmeans",
    ),
    "parallel": (
        "multipole_lab.bench.parallel",
        "MuSe over several processes beside ring attention: time, error and bytes sent",
    ),
    "sparsity": ("multipole_lab.bench.sparsity", "MuSe, runs and Centroid at the same sparsity"),
    "memory": (
        "multipole_lab.bench.memory",
        "peak extra memory of one call, and the fitted cost exponent",
    ),
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add ``bench`` to the command line."""
    parser = subparsers.add_parser("bench", help="time methods on this machine", description=__doc__)
    benches = parser.add_subparsers(dest="bench", metavar="WHAT", required=True)
    for name, (module, summary) in BENCHES.items():
        bench = benches.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        importlib.import_module(module).add_arguments(bench)
        if name == "decode":
            bench.set_defaults(**dict.fromkeys(("keys", "batch", "dtype")))  # `_decode` fills them in


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    module = BENCHES[args.bench][0]
    if args.bench == "decode":
        module = _decode(args)
    return importlib.import_module(module).run(args) or 0


# What `bench decode` takes by default; a GPU decodes longer caches, of several entries.
DECODE = {
    "cpu": {"keys": 32768, "batch": 1, "dtype": "float32"},
    "cuda": {"keys": 131072, "batch": [1, 4, 16], "dtype": None, "layers": 4, "repeats": 30},
}
GPU_DECODE = "multipole_lab.bench.decode.gpu"


def _decode(args: argparse.Namespace) -> str:
    """The module that times decoding on the device asked for, and its defaults in ``args``.

    Captured queries and growing caches are timed by the same module everywhere, the kernels alone on a GPU.
    """
    graphs = args.device.startswith("cuda") and args.sample is None and not getattr(args, "grow", None)
    for name, value in DECODE["cuda" if graphs else "cpu"].items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if not graphs:
        return BENCHES["decode"][0]
    args.batch = [args.batch] if isinstance(args.batch, int) else args.batch
    args.budget = args.budget[0]
    return GPU_DECODE
