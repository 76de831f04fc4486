"""What every rank of `multipole-lab bench parallel` measures: times, bytes and errors."""

from __future__ import annotations

import argparse
import time

from multipole_lab.bench.parallel import method_of


def measure(options: dict, sent) -> None:
    """What one rank does; the first one sends the rows."""
    import torch
    import torch.distributed as dist

    from multipole_lab.measure.inputs import heads_of
    from multipole_lab.parallel.context import ContextParallel
    from multipole_lab.parallel.reference import part_of
    from multipole_lab.parallel.ring import RingAttention

    args = argparse.Namespace(**options)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    method = method_of(args)
    short = max(1024, args.clusters + args.sinks)
    for n in args.n:
        *whole, source = heads_of(args.sample, None, args.heads, n, seed=args.seed)
        if args.device == "cuda":
            whole = [x.to("cuda", torch.bfloat16) for x in whole]
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
        _wait(inputs[0])
        start = time.perf_counter()
        out = kind(*arguments, traffic=traffic)(*tensors, causal=causal)
        upstream = out.detach()  # the gradient of half the squared output: no random numbers to agree on
        grads = torch.autograd.grad(out, tensors, upstream)
        _wait(inputs[0])
        seconds = time.perf_counter() - start
    most = torch.tensor(
        [seconds, traffic.forward, traffic.backward], dtype=torch.float64, device=inputs[0].device
    )
    dist.all_reduce(most, dist.ReduceOp.MAX)
    seconds, forward, backward = most.tolist()
    sent = {"forward_bytes": int(forward), "backward_bytes": int(backward)}
    return {"tensors": (out.detach(), *grads), "seconds": seconds, **sent}


def _wait(x) -> None:
    """For what a GPU still has to do."""
    import torch

    if x.is_cuda:
        torch.cuda.synchronize()


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
    worst = torch.zeros(1, device=inputs[0].device)
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
