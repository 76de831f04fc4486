"""`multipole-lab bench`: timings as commands, both sides in turns, error beside every time."""

from __future__ import annotations

import argparse
import importlib

BENCHES = {  # name: (module, what --help says of it)
    "kernels": (
        "multipole_lab.analysis.bench_kernels",
        "every kernel: time, error, share of the measured roofline",
    ),
    "attention": ("multipole_lab.analysis.bench_attention", "exact against approximate attention"),
    "decode": (
        "multipole_lab.decoding.bench_decode",
        "one decoding step over a clustered cache against dense",
    ),
    "decode-gpu": (
        "multipole_lab.decoding.bench_decode_gpu",
        "the decode kernels against the best dense decoding",
    ),
    "kmeans": ("multipole_lab.analysis.bench_kmeans", "the lab's k-means against scikit-learn's"),
    "parallel": (
        "multipole_lab.parallel.bench_parallel",
        "MuSe over several processes beside ring attention: time, error and bytes sent",
    ),
    "sparsity": ("multipole_lab.analysis.bench_sparsity", "MuSe, spatial and Centroid at the same sparsity"),
    "memory": (
        "multipole_lab.analysis.bench_memory",
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


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    return importlib.import_module(BENCHES[args.bench][0]).run(args) or 0
