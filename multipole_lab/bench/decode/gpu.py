"""The decode kernels against the best dense decoding on a GPU: `multipole-lab bench decode --device cuda`.

Every side is one CUDA graph that goes through several layers, each with a cache of its own, so that no cache
stays in L2 from one step to the next and the host takes no part. Sides take turns. Dense attention is tried in
every way that torch has, with the queries of a group as heads or as rows; the best of them is the baseline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from multipole_lab.bench.decode.dense_sides import dense_sides
from multipole_lab.bench.decode.problems import synthetic
from multipole_lab.bench.record import Record, add_json
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.state import Level, State
from multipole_lab.devices import missing_device
from multipole_lab.measure.graphs import as_graph
from multipole_lab.measure.precision import default_dtype_name
from multipole_lab.measure.roofline import copy_speed
from multipole_lab.measure.timing import interleaved

SUMMARY = "the decode kernels in CUDA graphs, against the best dense decoding of this GPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the benchmark."""
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[1, 4, 16])
    add("--keys", type=int, default=131072)
    add("--heads", type=int, nargs=2, default=[32, 8], metavar=("HQ", "HK"))
    add("--head-size", type=int, default=128)
    add("--budget", type=float, default=0.05, help="share of the keys; default: 0.05")
    add("--layers", type=int, default=4, help="caches a graph goes through; fewer where memory is short")
    add("--repeats", type=int, default=30)
    add("--device", default="cuda")
    add("--dtype", choices=["bfloat16", "float16", "float32"], help="default: the GPU's half precision")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a row a side, and keep the rows."""
    if problem := missing_device(args.device):
        print(f"multipole-lab bench decode: {problem}", file=sys.stderr)
        return 2
    args.dtype = args.dtype or default_dtype_name(args.device)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    with torch.no_grad():
        q, k, v, scale, _ = synthetic(1, *args.heads, args.keys, args.head_size, dtype, device)
        q = q[:, :, -8:]
        states = {f"{n} level{'s' * (n > 1)}": clustered(k, v, n, args.budget) for n in (1, 2)}
        speed = copy_speed(device)
        record = Record(args.json, args.device, args.dtype, copy_gb_s=speed, keys=args.keys)
        for batch in args.batch:
            for row in measure(batch, q, k, v, scale, states, args, speed):
                record.add(row, text_of(row))
    return 0


def text_of(row: dict) -> str:
    """A row as a line."""
    return (
        f"batch {row['batch']:3d}  {row['side']:24} {row['microseconds']:10.1f} us  x{row['speedup']:6.2f}  "
        f"{1e3 * row['gigabytes']:9.1f} MB  {row['share_of_copy']:6.1%} of copy  error {row['error']:.2e}"
    )


def clustered(k: Tensor, v: Tensor, levels: int, budget: float) -> tuple[State, dict]:
    """A cache of batch 1 and the settings of its step."""
    settings = Settings(levels=levels, budget=budget)
    hierarchy = Hierarchy(settings)
    hierarchy.append(k, v)
    hierarchy.join()
    tokens = settings.tokens(hierarchy.length)
    looked = settings.looked_at(hierarchy.levels[0].keys.length, tokens)
    return hierarchy.state(), {"budget": min(tokens, hierarchy.clustered), "lookups": looked}


def measure(
    batch: int, q, k, v, scale: float, states: dict, args: argparse.Namespace, speed: float
) -> list[dict]:
    """One row a side: microseconds a layer, speedup over the best dense side, gigabytes, share of copy, error."""
    dense_bytes = batch * (k.numel() + v.numel()) * k.element_size()
    layers = args.layers
    if k.is_cuda:
        free, _ = torch.cuda.mem_get_info()
        layers = max(1, min(layers, int(0.8 * free / (dense_bytes * (1 + 1.2 * len(states))))))
    exact = dense_exact(q, k, v, scale)
    wide_q = q[:, :, -1:].repeat(batch, 1, 1, 1)
    caches = [(k.repeat(batch, 1, 1, 1), v.repeat(batch, 1, 1, 1)) for _ in range(layers)]
    calls, moved, errors = {}, {}, {}
    for name, side in dense_sides(k, scale):
        calls[name] = partial(through, [partial(side, wide_q, *cache) for cache in caches])
        moved[name] = dense_bytes
        errors[name] = error(torch.cat([side(q[:, :, i : i + 1], k, v) for i in range(q.shape[2])], 2), exact)
    for name, (state, settings) in states.items():
        step = step_of(k)
        settings = {"scale": scale, **settings}
        calls[name] = partial(
            through, [partial(step, wide_q, widened(state, batch), **settings) for _ in range(layers)]
        )
        moved[name] = batch * touched(state, settings, q.shape[1])
        outs = [step(q[:, :, i : i + 1], state, **settings)[0] for i in range(q.shape[2])]
        errors[name] = error(torch.cat(outs, 2), exact)
    if k.is_cuda:
        calls = {name: as_graph(call) for name, call in calls.items()}
    times = interleaved(calls, args.repeats, warmup=3, device=k.device)
    best = min(times[name] for name in times if name not in states)
    rows = []
    for name, ms in times.items():
        microseconds = 1e3 * ms / layers
        rate = moved[name] / microseconds / 1e3
        rows.append(
            {"batch": batch, "side": name, "microseconds": microseconds, "speedup": best / ms,
             "gigabytes": moved[name] / 1e9, "share_of_copy": rate / speed, "error": errors[name],
             "layers": layers}
        )  # fmt: skip
    return rows


def step_of(k: Tensor) -> Callable:
    """The launcher on a GPU, otherwise the torch step."""
    from multipole_lab.decoding.step.backend import step_function

    return step_function("auto", k, k)


def through(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        call()


def widened(state: State, batch: int) -> State:
    """The same cache, copied for every entry of a batch."""

    def wide(x: Tensor) -> Tensor:
        return x.repeat(batch, *[1] * (x.ndim - 1))

    levels = tuple(Level(*map(wide, level[:-1]), level.size) for level in state.levels)
    spreads = tuple(map(wide, state.spreads))
    return state._replace(keys=wide(state.keys), values=wide(state.values), levels=levels, spreads=spreads)


def touched(state: State, settings: dict, query_heads: int) -> int:
    """Bytes that a step of batch 1 reads of the cache, by the formula in the launcher's docstring."""
    rows, top = state.keys.shape[1], state.levels[-1].size
    exact = state.sinks + state.length - state.clustered
    vectors = top + exact + settings["budget"] + (settings["lookups"] if len(state.levels) > 1 else 0)
    return rows * vectors * (state.keys.shape[-1] + state.values.shape[-1]) * state.keys.element_size()


def dense_exact(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """In float32, and float64 for the softmax: q [1, Hq, n, D]."""
    rows = q.float().unflatten(1, (k.shape[1], -1)).flatten(2, 3)
    weights = (scale * rows @ k.float().mT).double().softmax(-1).float()
    return (weights @ v.float()).unflatten(2, (-1, q.shape[2])).flatten(1, 2)


def error(out: Tensor, exact: Tensor) -> float:
    """Relative squared error of every head, over the queries; the mean of heads."""
    difference = (out.double() - exact).square().sum((-1, -2))
    return (difference / exact.double().square().sum((-1, -2))).mean().item()
