"""`multipole-lab bench parallel`: context-parallel MuSe beside ring attention, on gloo processes or on GPUs."""

from __future__ import annotations

import argparse
import os
import sys
import threading

from multipole_lab.bench.record import Record, add_json

HEADER = (
    f"{'ranks':>5} {'n':>8} {'method':>6} {'ms':>9} {'forward B':>12} {'backward B':>12} {'rse':>9} "
    f"{'difference':>10}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's options."""
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", default=[2, 4], metavar="P", help="processes; default: 2 4")
    add(
        "--n",
        type=int,
        nargs="+",
        default=[8192, 32768, 131072],
        metavar="N",
        help="tokens of the whole sequence; default: 8192 32768 131072",
    )
    add("--near", type=int, default=0, help="near clusters of each query cluster; default: 0")
    add("--clusters", type=int, default=64, help="clusters of each rank; default: 64")
    add("--leaf", type=int, default=1024, help="causal blocks of at most this many positions are exact")
    add("--sinks", type=int, default=0)
    add("--order", choices=("monopole", "dipole"), default="monopole", help="default: monopole")
    add("--dipole-rank", type=int, default=8, help="directions of the dipole; default: 8")
    add("--heads", type=int, default=1, help="query and key/value heads; default: 1")
    add("--sample", default="smollm2", help="a captured sample, resampled beyond its length, or 'random'")
    add("--causal", action="store_true", help="causal attention instead of full")
    add("--ring-to", type=int, default=32768, metavar="N", help="longest n at which ring attention runs, for its "
        "time grows with n^2; beyond, its bytes are those of its formula; default: 32768")  # fmt: skip
    add(
        "--check-to",
        type=int,
        metavar="N",
        help="longest n compared with one process; default: 131072, on GPUs 8192",
    )
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cpu: new processes here; cuda: those of torchrun, a GPU each, in bf16 by NCCL; default: cpu",
    )
    add("--partition", choices=("kmeans", "runs"), default="kmeans", help="default: kmeans")
    add("--limit", type=float, default=300.0, metavar="S", help="seconds that a rank waits for another")
    add("--seed", type=int, default=0)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print two rows for each number of ranks and length."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context

    from multipole_lab.bench.parallel_measure import measure
    from multipole_lab.parallel.launch import launch

    try:
        if args.check_to is None:
            args.check_to = 131072 if args.device == "cpu" else 8192
        if args.device == "cuda":
            return on_gpus(args)
        _check(args)
        record = Record(
            args.json, "cpu", "float32", threads=1, heads=args.heads, causal=args.causal, clusters=args.clusters,
            near=args.near,
        )  # fmt: skip
        record.note(
            "all ranks on this one machine, over gloo; forward and backward; bytes of the busiest rank"
        )
        record.note(HEADER)
        options = {name: value for name, value in vars(args).items() if not callable(value)}
        rows, sent = get_context("spawn").Pipe(
            duplex=False
        )  # from the first rank; ends with whoever may send
        keeper = threading.Thread(target=_keep, args=(rows, record), daemon=True)
        keeper.start()
        try:
            for ranks in args.ranks:
                launch(measure, ranks, options, sent, limit=args.limit)
        finally:
            sent.close()
            keeper.join()
    except (ValueError, TypeError, OSError, ProcessRaisedException, ProcessExitedException) as error:
        print(f"multipole-lab bench parallel: {error}", file=sys.stderr)
        return 2
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what would fail only in every process."""
    method_of(args)
    if min(args.ranks) < 1:
        raise ValueError(f"--ranks is {args.ranks}; at least 1 is needed")
    least = max(args.ranks) * max(args.clusters + args.sinks, 1)
    if min(args.n) < least and not args.causal:
        raise ValueError(
            f"--n is {min(args.n)}; at least {least} is needed, for a rank's keys make its clusters"
        )


def method_of(args: argparse.Namespace):
    """The MuSe that the options ask for."""
    from multipole_lab.attention import MuSe

    return MuSe(
        clusters=args.clusters, near=args.near, leaf=args.leaf, sinks=args.sinks, order=args.order,
        dipole_rank=args.dipole_rank, seed=args.seed, partition=args.partition,
    )  # fmt: skip


def on_gpus(args: argparse.Namespace) -> int:
    """One process of torchrun: measure on its GPU; the first one prints and keeps the rows."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from multipole_lab.bench.parallel_measure import measure
    from multipole_lab.parallel.failing import failing_together

    if "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "--device cuda needs a process for each GPU: start it with torchrun --standalone --nproc-per-node 2 -m "
            "multipole_lab.cli bench parallel --device cuda"
        )
    if not torch.cuda.is_available():
        raise ValueError("--device is 'cuda', but torch finds no GPU here; 'multipole-lab doctor' says why")
    args.ranks = [int(os.environ["WORLD_SIZE"])]
    _check(args)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=timedelta(seconds=args.limit), device_id=device)
    options = {name: value for name, value in vars(args).items() if not callable(value)}
    rows = _Rows(args) if dist.get_rank() == 0 else None
    with failing_together(args.limit):
        measure(options, rows)
    dist.destroy_process_group()
    return 0


class _Rows:
    """Where the first process of torchrun sends its rows: they are printed and kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.record = Record(
            args.json,
            "cuda",
            "bfloat16",
            heads=args.heads,
            causal=args.causal,
            clusters=args.clusters,
            near=args.near,
        )
        self.record.note(HEADER)

    def send(self, row: dict) -> None:
        self.record.add(row, text_of(row))


def _keep(rows, record: Record) -> None:
    """Print and keep the rows that come, until nobody can send any."""
    while True:
        try:
            row = rows.recv()
        except EOFError:
            return
        record.add(row, text_of(row))


def text_of(row: dict) -> str:
    """A row as a line under ``HEADER``."""
    ms = "" if row["seconds"] is None else f"{row['seconds'] * 1e3:.0f}"
    rse = f"{row['rse']:.2e}" if "rse" in row else ""
    difference = f"{row['difference']:.1e}" if "difference" in row else ""
    return (
        f"{row['ranks']:5d} {row['n']:8d} {row['method']:>6} {ms:>9} {row['forward_bytes']:12,d} "
        f"{row['backward_bytes']:12,d} {rse:>9} {difference:>10}"
    )
