"""One rank of tests/parallel/test_parallel.py. It writes what it found.

`python parallel_worker.py MODE RANK RANKS FOLDER`.

Not a test module: a process of its own, for a process group has one rank a process.
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

import multipole_lab as ml
from multipole_lab.parallel import ContextParallel, RingAttention, Traffic, part_of

# name: (method, or None for the ring; (B, Hq, Hk, N, D, Dv); causal; masked)
SHAPE = (2, 4, 2, 203, 16, 12)
CASES = {
    "full": (ml.MuSe(clusters=8), SHAPE, False, False),
    "causal": (ml.MuSe(clusters=8, leaf=16), SHAPE, True, False),
    "full near": (ml.MuSe(clusters=8, near=2), SHAPE, False, False),
    "causal near": (ml.MuSe(clusters=8, near=2, leaf=16), SHAPE, True, False),
    "full sinks": (ml.MuSe(clusters=8, near=1, sinks=3), SHAPE, False, False),
    "causal sinks": (ml.MuSe(clusters=8, near=1, sinks=3, leaf=16), SHAPE, True, False),
    "full dipole": (ml.MuSe(clusters=8, order="dipole", dipole_rank=3), SHAPE, False, False),
    "causal dipole": (
        ml.MuSe(clusters=8, order="dipole", dipole_rank=3, near=2, leaf=16),
        SHAPE,
        True,
        False,
    ),
    "full dipole near": (ml.MuSe(clusters=8, order="dipole", dipole_rank=None, near=2), SHAPE, False, False),
    "full masked": (ml.MuSe(clusters=8, near=1, sinks=2), SHAPE, False, True),
    "causal masked": (ml.MuSe(clusters=8, near=1, leaf=16), SHAPE, True, True),
    "full balanced": (ml.MuSe(clusters=7, partition="balanced", near=1), SHAPE, False, False),
    "causal runs": (ml.MuSe(clusters=7, partition="runs", leaf=16), SHAPE, True, False),
    "full all near": (ml.MuSe(clusters=4, near=1000), SHAPE, False, False),
    "full query clusters": (ml.MuSe(clusters=8, query_clusters=5, near=1), SHAPE, False, False),
    "causal query clusters": (ml.MuSe(clusters=8, query_clusters=3, leaf=16), SHAPE, True, False),
    "full uncapped": (ml.MuSe(clusters=8, cap=None, near=2), SHAPE, False, False),
    "causal uncapped": (ml.MuSe(clusters=8, cap=None, leaf=16), SHAPE, True, True),
    "causal auto": (ml.MuSe(clusters="auto", leaf=16), SHAPE, True, False),
    "full twice as long": (ml.MuSe(clusters=8), (2, 4, 2, 406, 16, 12), False, False),
    "causal twice as long": (ml.MuSe(clusters=8, leaf=16), (2, 4, 2, 406, 16, 12), True, False),
    "full ring": (None, SHAPE, False, False),
    "causal ring": (None, SHAPE, True, False),
    "full ring twice as long": (None, (2, 4, 2, 406, 16, 12), False, False),
}
# Of the kernels: few positions, for the interpreter is slow.
TRITON = {"backend": "triton"}
KERNEL_CASES = {
    "full": (ml.MuSe(clusters=3, **TRITON), (1, 2, 1, 25, 16, 16), False, False),
    "causal near": (ml.MuSe(clusters=3, near=1, leaf=16, **TRITON), (1, 2, 1, 31, 16, 16), True, False),
}


def problem(shape, masked):
    """q, k, v, the mask, and the gradients of out and lse: the same in every process."""
    B, Hq, Hk, N, D, Dv = shape
    g = torch.Generator().manual_seed(N)
    sizes = (B, Hq, N, D), (B, Hk, N, D), (B, Hk, N, Dv), (B, Hq, N, Dv), (B, Hq, N)
    q, k, v, dout, dlse = (torch.randn(size, generator=g) for size in sizes)
    mask = torch.rand(B, N, generator=g) < 0.8 if masked else None
    return q, k, v, mask, dout, dlse


def prove(rank, ranks, cases):
    """Results and gradients of this rank's part, and the bytes it sent, for every case."""
    tensors, traffics = {}, {}
    for name, (method, shape, causal, masked) in cases.items():
        q, k, v, mask, dout, dlse = problem(shape, masked)
        part = part_of(q.shape[2], rank, ranks)
        inputs = [x[:, :, part].clone().requires_grad_() for x in (q, k, v)]
        traffic = Traffic()
        attend = RingAttention(None, traffic) if method is None else ContextParallel(method, None, traffic)
        out, lse = attend(
            *inputs, causal=causal, mask=None if mask is None else mask[:, part], return_lse=True
        )
        seen = lse > -torch.inf
        upstream = dout[:, :, part], torch.where(seen, dlse[:, :, part], 0.0)
        grads = torch.autograd.grad((out, lse), inputs, upstream)
        found = dict(zip(("out", "lse", "dq", "dk", "dv"), (out.detach(), lse.detach(), *grads), strict=True))
        tensors |= {f"{name}/{key}": x.contiguous() for key, x in found.items()}
        traffics[name] = {"sent": traffic.sent, "forward": traffic.forward, "backward": traffic.backward}
    return tensors, traffics


def tiny_model():
    """A small language model and one sequence for it, the same in every process."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), torch.randint(40, (1, 51))


def model_in_parts(rank, ranks):
    """Logits of this rank's part of a sequence, with everything near: what the model says of the whole sequence."""
    model, ids = tiny_model()
    part = part_of(ids.shape[1], rank, ranks)
    positions = torch.arange(part.start, part.stop)[None]
    attend = ContextParallel(ml.MuSe(clusters=2, near=1000, leaf=8))
    with attend.on(model), torch.no_grad():
        return model(ids[:, part], position_ids=positions, use_cache=False).logits


def refusals(rank):
    """What each mistake says, with the type of the error, on this rank."""
    q, k, v, *_ = problem((1, 4, 2, 20, 8, 8), False)
    odd = rank == 1
    muse = ml.MuSe(clusters=2)
    mistakes = {
        "heads": (muse, (q[:, :2] if odd else q, k, v), False),
        "dtypes": (muse, [x.double() if odd else x for x in (q, k, v)], False),
        "causal": (muse, (q, k, v), odd),
        "method": (ml.MuSe(clusters=3) if odd else muse, (q, k, v), False),
        "gradients": (muse, [x.clone().requires_grad_(odd) for x in (q, k, v)], False),
        "clusters": (ml.MuSe(clusters=30), (q, k, v) if odd else (q, *(x.repeat(1, 1, 2, 1) for x in (k, v))), False),
        "queries": (muse, (q[:, :, :5] if odd else q, k, v), True),
        "sinks": (ml.MuSe(clusters=2, sinks=21), (q, k, v), False),
        "ring heads": (None, (q, k[:, :1], v[:, :1]) if odd else (q, k, v), False),
    }  # fmt: skip
    said = {}
    for name, (method, tensors, causal) in mistakes.items():
        attend = RingAttention() if method is None else ContextParallel(method)
        try:
            attend(*tensors, causal=causal)
            said[name] = "nothing"
        except (TypeError, ValueError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def part_company(mode, rank):
    """Rank 1 dies or falls silent between a forward and its backward; the others say what they meet, and when."""
    q, k, v, *_ = problem((1, 1, 1, 64, 8, 8), False)
    out = ContextParallel(ml.MuSe(clusters=4))(q.requires_grad_(), k, v)
    if rank == 1:
        if mode == "silent":
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        out.sum().backward()
    except RuntimeError as error:
        return {"error": str(error), "seconds": time.monotonic() - start}
    return {"error": None, "seconds": time.monotonic() - start}


class Alone:
    """Stands for ``parallel.channel.Channel`` of one rank, without a process group: what is sent is what is heard."""

    rank, ranks = 0, 1

    def __init__(self, *_):
        pass

    def swap(self, kind, parts, shapes, like):
        return {s: parts[s] for s in shapes}

    def start(self, kind, parts, shapes, likes):
        return Heard({s: list(parts[s]) for s in shapes})


class Heard:
    """A message that is there already."""

    def __init__(self, parts):
        self.parts = parts

    def wait(self):
        return self.parts


def fail(way):
    """Rank 1 fails in a way; rank 0 computes and asks nobody, rank 2 waits for the others in an exchange."""
    rank = dist.get_rank()
    dist.barrier()
    if rank == 1:
        if way == "memory":
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        if way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)
    if rank == 2:
        x = torch.randn(1, 1, 16, 8)
        ContextParallel(ml.MuSe(clusters=2))(x, x, x)
    time.sleep(120)


def main():
    mode, rank, ranks, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    limit = 8 if mode in ("silent", "dies") else 120
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(folder / "store"), ranks),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=limit),
    )
    if mode in ("prove", "kernels"):
        tensors, traffics = prove(rank, ranks, CASES if mode == "prove" else KERNEL_CASES)
        if mode == "prove" and ranks == 2:  # transformers takes seconds to import
            tensors["logits"] = model_in_parts(rank, ranks).contiguous()
        save_file(tensors, folder / f"{rank}.safetensors")
        result = {"traffic": traffics, "refusals": refusals(rank) if mode == "prove" else {}}
    else:
        result = part_company(mode, rank)
    (folder / f"{rank}.json").write_text(json.dumps(result))
    # Not sys.exit: gloo's threads may still be at work then, and end the process by an abort.
    os._exit(3 if result.get("error") else 0)


if __name__ == "__main__":
    main()
