"""`multipole-lab kernels`: what every kernel needs on every target, and what it moves and does."""

from __future__ import annotations

import argparse
import sys

import torch

from ..hub.package import NAME, write_package
from .compiling import TARGETS, report
from .problem import Problem
from .table import ENTRIES

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `kernels` command."""
    parser = subparsers.add_parser(
        "kernels", help="compile every kernel for every GPU and report what it needs"
    )
    parser.add_argument("--head", type=int, nargs="+", default=[64, 128], help="head sizes (default 64 128)")
    parser.add_argument("--dtype", choices=_DTYPES, nargs="+", default=["fp16"], help="dtypes (default fp16)")
    parser.add_argument("--capability", type=int, nargs="+", help="targets, for example 80 90 (default: all)")
    parser.add_argument("--only", default="", help="launchers whose name contains this")
    parser.add_argument(
        "--hub",
        metavar="FOLDER",
        help="write the kernels to FOLDER as a package for Hugging Face's Kernel Hub",
    )
    parser.add_argument("--repo", default=f"OWNER/{NAME}", help="of --hub: where on the Hub it will be")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the report, or write the package; 1 where a kernel does not compile, does not fit or spills."""
    if args.hub:
        return _write_for_hub(args)
    problems = [Problem(head=head, dtype=_DTYPES[dtype]) for head in args.head for dtype in args.dtype]
    targets = [t for t in TARGETS if not args.capability or t.capability in args.capability]
    _print_costs(problems, args.only)
    print(f" {'sm':>4} {'D':>4} {'dtype':8} {'tile':13} {'shared':>6} {'limit':>6} {'regs':>4} {'spill':>5}")
    bad = total = 0
    above = ""
    for row in report(problems, targets, args.only):
        total += 1
        bad += not row.good
        dtype = str(row.problem.dtype).removeprefix("torch.")
        if above != (above := f"{row.launcher}: {row.kernel}"):
            print(above)
        print(f" {row.target.capability:4} {row.problem.head:4} {dtype:8} {row.tile:13} {row.shared:6} "
              f"{row.target.shared_kb * 1024:6} {row.registers:4} {row.spilled:5}"
              f"{'' if row.good else '  <-- ' + (row.error or 'does not fit')}", flush=True)  # fmt: skip
    print(f"{total} compiled, {bad} do not fit, spill or fail")
    return 1 if bad else 0


def _write_for_hub(args: argparse.Namespace) -> int:
    from multipole_lab import __version__

    try:
        folder = write_package(args.hub, args.repo, __version__)
    except ValueError as error:
        print(f"multipole-lab kernels: {error}", file=sys.stderr)
        return 2
    print(
        f"{folder}: {sum(path.is_file() for path in folder.rglob('*'))} files; docs/releasing.md has what comes next"
    )
    return 0


def _print_costs(problems: list[Problem], only: str) -> None:
    for problem in problems:
        print(f"B={problem.batch} Hq={problem.query_heads} Hk={problem.kv_heads} N={problem.queries} "
              f"C={problem.clusters} D={problem.head} near={problem.near} rank={problem.rank} "
              f"{str(problem.dtype).removeprefix('torch.')}")  # fmt: skip
        for entry in ENTRIES:
            if only in entry.name:
                moved, operations = entry.cost(problem)
                print(f"  {entry.name:18} {moved / 1e6:8.2f} MB {operations / 1e9:8.2f} Gop "
                      f"{operations / moved:6.1f} op/B")  # fmt: skip
