"""`multipole-lab bench parallel`: context-parallel MuSe beside ring attention, on gloo processes of this machine."""

from __future__ import annotations

import argparse
import sys
import threading
import time

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
    add("--check-to", type=int, default=131072, metavar="N", help="longest n compared with one process")
    add("--limit", type=float, default=300.0, metavar="S", help="seconds that a rank waits for another")
    add("--seed", type=int, default=0)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print two rows for each number of ranks and length."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context

    from multipole_lab.parallel.launch import launch

    try:
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
    _method(args)
    if min(args.ranks) < 1:
        raise ValueError(f"--ranks is {args.ranks}; at least 1 is needed")
    least = max(args.ranks) * max(args.clusters + args.sinks, 1)
    if min(args.n) < least and not args.causal:
        raise ValueError(
            f"--n is {min(args.n)}; at least {least} is needed, for a rank's keys make its clusters"
        )


def _method(args: argparse.Namespace):
    from multipole_lab.attention import MuSe

    return MuSe(
        clusters=args.clusters, near=args.near, leaf=args.leaf, sinks=args.sinks, order=args.order,
        dipole_rank=args.dipole_rank, seed=args.seed,
    )  # fmt: skip


def _keep(rows, record: Record) -> None:
    """Print and keep the rows that come, until nobody can send any."""
    while True:
        try:
            row = rows.recv()
        except EOFError:
            return
        record.add(row, text_of(row))


def measure(options: dict, sent) -> None:
    """What one rank does; the first one sends the rows."""
    import torch.distributed as dist

    from multipole_lab.measure.inputs import heads_of
    from multipole_lab.parallel.context import ContextParallel
    from multipole_lab.parallel.reference import part_of
    from multipole_lab.parallel.ring import RingAttention

    args = argparse.Namespace(**options)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    method = _method(args)
    short = max(1024, args.clusters + args.sinks)
    for n in args.n:
        *whole, source = heads_of(args.sample, None, args.heads, n, seed=args.seed)
        part = part_of(n, rank, ranks)
        inputs = [x[:, :, part].clone().requires_grad_() for x in whole]
        base = {"ranks": ranks, "n": n, "heads": args.heads, "causal": args.causal, "source": source}
        own = _timed(ContextParallel, (method,), inputs, args.causal, short)
        out = own.pop("tensors")[0]
        row = base | {
            "method": "muse",
            **own,
            "clusters": args.clusters,
            "near": args.near,
            "order": args.order,
        }
        if n <= args.ring_to:
            ring = _timed(RingAttention, (), inputs, args.causal, short)
            row["rse"] = _error(out, ring.pop("tensors")[0])
        else:
            ring = {"seconds": None, **_ring_bytes(inputs[1], inputs[2], n, ranks), "by_formula": True}
        if n <= args.check_to:
            row["difference"] = _difference(method, whole, inputs, ranks, part, args.causal)
        if rank == 0:
            sent.send(row)
            sent.send(base | {"method": "ring", **ring})
        dist.barrier()


def _timed(kind: type, arguments: tuple, inputs: list, causal: bool, short: int) -> dict:
    """One forward and backward, after an unmeasured one of ``short`` tokens a rank.

    Gives the output and gradients of this rank, the seconds of the slowest and the bytes of the busiest.
    """
    import torch
    import torch.distributed as dist

    from multipole_lab.parallel.channel import Traffic

    warm_up = [x.detach()[:, :, :short].requires_grad_() for x in inputs]
    for tensors in (warm_up, inputs):
        traffic = Traffic()
        dist.barrier()
        start = time.perf_counter()
        out = kind(*arguments, traffic=traffic)(*tensors, causal=causal)
        upstream = out.detach()  # the gradient of half the squared output: no random numbers to agree on
        grads = torch.autograd.grad(out, tensors, upstream)
        seconds = time.perf_counter() - start
    most = torch.tensor([seconds, traffic.forward, traffic.backward], dtype=torch.float64)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    seconds, forward, backward = most.tolist()
    sent = {"forward_bytes": int(forward), "backward_bytes": int(backward)}
    return {"tensors": (out.detach(), *grads), "seconds": seconds, **sent}


def _error(out, exact) -> float:
    """Relative squared error of the whole sequence, the mean over heads; ``exact`` by ring attention."""
    import torch
    import torch.distributed as dist

    sums = torch.stack([(x.double().square()).sum((-1, -2)) for x in (out - exact, exact)])  # [2, B, H]
    dist.all_reduce(sums)
    return (sums[0] / sums[1]).mean().item()


def _ring_bytes(k, v, n: int, ranks: int) -> dict:
    """What the busiest rank sends in ring attention, by the formula that tests hold against the count."""
    size = k.element_size() * k.shape[0] * k.shape[1] * (k.shape[3] + v.shape[3])
    passed = n - n // ranks
    agreed = 96 * (ranks - 1)
    return {"forward_bytes": size * passed + agreed, "backward_bytes": size * (passed + n)}


def _difference(method, whole: list, inputs: list, ranks: int, part: slice, causal: bool) -> float:
    """The largest difference to one process in this part's output and gradients, over all ranks.

    Of the rounding's own size: it is divided by the largest number of the tensor it is in.
    """
    import torch
    import torch.distributed as dist

    from multipole_lab.parallel.context import ContextParallel
    from multipole_lab.parallel.reference import parallel_reference

    out = ContextParallel(method)(*inputs, causal=causal)
    own = (out, *torch.autograd.grad(out, inputs, out.detach()))
    worst = torch.zeros(1)
    whole = [x.clone().requires_grad_() for x in whole]
    if dist.get_rank() == 0:  # once, for all ranks share this machine
        single, _ = parallel_reference(method, *whole, ranks, causal=causal)
        grads = torch.autograd.grad(single, whole, single.detach())
        wanted = [x.detach().contiguous() for x in (single, *grads)]
    else:
        wanted = [torch.empty_like(x) for x in (whole[0][..., : out.shape[-1]], *whole)]
    for x, want in zip(own, wanted, strict=True):
        want = want.contiguous()
        dist.broadcast(want, 0)
        worst = torch.maximum(worst, (x.detach() - want[:, :, part]).abs().max() / want.abs().max())
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.item()


def text_of(row: dict) -> str:
    """A row as a line under ``HEADER``."""
    ms = "" if row["seconds"] is None else f"{row['seconds'] * 1e3:.0f}"
    rse = f"{row['rse']:.2e}" if "rse" in row else ""
    difference = f"{row['difference']:.1e}" if "difference" in row else ""
    return (
        f"{row['ranks']:5d} {row['n']:8d} {row['method']:>6} {ms:>9} {row['forward_bytes']:12,d} "
        f"{row['backward_bytes']:12,d} {rse:>9} {difference:>10}"
    )
