"""`multipole-lab bench decode`: time, error and bytes of one decoding step, against dense attention."""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import Tensor

from multipole_lab.bench.decode import growth
from multipole_lab.bench.decode.baselines import Clustered, Dense, Pages, TopKeys, WindowSinks
from multipole_lab.bench.decode.problems import problems
from multipole_lab.bench.record import Record, add_json
from multipole_lab.decoding.settings import Settings
from multipole_lab.devices import missing_device

SUMMARY = "time, error and bytes of one decoding step over a clustered cache"
HEADING = (
    f"{'side':16} {'budget':>6} {'step ms':>9} {'update ms':>9} {'total':>8} {'speedup':>8} "
    f"{'error':>9} {'MB':>8}"
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``bench decode``."""
    add = parser.add_argument
    add("--sample", metavar="FILE", help="captured queries, keys and values; otherwise synthetic ones")
    add("--keys", type=int, default=32768, metavar="N", help="synthetic: keys in the cache; default: 32768")
    add("--heads", type=int, nargs=2, default=[32, 8], metavar=("HQ", "HK"), help="synthetic; default: 32 8")
    add("--head-size", type=int, default=128, metavar="D", help="synthetic; default: 128")
    add(
        "--batch", type=int, default=1, help="synthetic; default: 1, on a GPU 1, 4 and 16 one after the other"
    )
    add("--budget", type=float, nargs="+", default=[0.05], help="keys (128) or shares (0.05); default: 0.05")
    add("--steps", type=int, default=32, help="steps timed and compared for each side; default: 32")
    add("--joins", type=int, default=6, help="updates timed for each side; default: 6")
    add("--threads", type=int, help="threads of torch; default: its own choice")
    add("--device", default="cpu", help="default: cpu")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="default: float32")
    add("--windowed", action="store_true", help="also cluster keys with RoPE undone (needs --sample)")
    add(
        "--plain",
        action="store_true",
        help="also cluster by the plain distance instead of the queries' metric",
    )
    add(
        "--grow",
        type=int,
        metavar="TOKENS",
        help="instead: memory and time while that many tokens are generated",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print one row a side; returns the exit status."""
    if problem := missing_device(args.device):
        print(f"multipole-lab bench decode: {problem}", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        layers = problems(args)
    except (ValueError, OSError) as error:
        print(f"multipole-lab bench decode: {error}", file=sys.stderr)
        return 1
    what = (
        args.sample
        or f"synthetic, {args.keys} keys, heads {args.heads[0]}/{args.heads[1]} of {args.head_size}"
    )
    record = Record(args.json, args.device, args.dtype, keys=what, steps=args.steps)
    if args.grow:
        return _grow(layers, args, record)
    record.note(HEADING)
    with torch.no_grad():
        for budget in args.budget:
            sides = _sides(budget if 0 < budget < 1 else int(budget), args)
            for row in _average([_measure(sides, args, *one) for one in layers], budget):
                record.add(row, _line(row))
    return 0


def _grow(layers: list, args: argparse.Namespace, record: Record) -> int:
    """The rows of ``--grow``: of one layer, the first."""
    q, k, v, scale, _ = layers[0]
    budget = args.budget[0] if 0 < args.budget[0] < 1 else int(args.budget[0])
    record.note(growth.HEADING)
    try:
        with torch.no_grad():
            for row in growth.grow(q, k, v, scale, args.grow, budget):
                record.add(row, growth.line(row))
    except ValueError as error:
        print(f"multipole-lab bench decode: --grow: {error}", file=sys.stderr)
        return 1
    return 0


def _sides(budget: int | float, args: argparse.Namespace) -> dict:
    """Name to a function that makes a new one of the side, given the layer's rotation."""
    ends = {"sinks": 10, "recent": 128}
    sides = {
        "dense": lambda _: Dense(),
        "two levels": lambda _: Clustered(Settings(budget=budget, **ends)),
        "one level": lambda _: Clustered(Settings(budget=budget, levels=1, **ends)),
        "no replacement": lambda _: Clustered(Settings(budget=budget, levels=1, replacement=False, **ends)),
        "window": lambda _: WindowSinks(10, 128 + (budget if isinstance(budget, int) else 0)),
        "pages": lambda _: Pages(budget, **ends),
        "top keys": lambda _: TopKeys(budget, **ends),
    }
    if args.plain:
        sides["plain metric"] = lambda _: Clustered(Settings(budget=budget, watch=0, **ends))
    if args.windowed:
        sides["windowed"] = lambda rotation: Clustered(
            Settings(budget=budget, levels=1, rope="windowed", **ends), rotation
        )
    return sides


def _measure(sides: dict, args: argparse.Namespace, q, k, v, scale: float, rotation) -> list[dict]:
    """Steps in turns, side after side; then the updates of the clustered sides."""
    steps, device = args.steps, q.device
    before = k.shape[2] - steps
    running = {name: make(rotation) for name, make in sides.items()}
    outs = {name: [] for name in sides}
    times = {name: [] for name in sides}
    for side in running.values():
        side.append(k[:, :, : before - 1], v[:, :, : before - 1])
        side.append(k[:, :, before - 1 : before], v[:, :, before - 1 : before])
        side.step(q[:, :, before - 1 : before], scale)  # clusters the prompt
    for t in range(before, before + steps):
        for name, side in running.items():
            now = slice(t, t + 1)
            start = _clock(device)
            side.append(k[:, :, now], v[:, :, now])
            outs[name].append(side.step(q[:, :, now], scale))
            times[name].append(_clock(device) - start)
    exact = torch.cat(outs["dense"], 2).double()
    rows = []
    for name, side in running.items():
        step = statistics.median(times[name])
        wrong = (torch.cat(outs[name], 2).double() - exact).square().sum((-1, -2))
        error = wrong / exact.square().sum((-1, -2))
        update = _update(side, args.joins, k, v, q, scale, step) if isinstance(side, Clustered) else 0.0
        rows.append(
            {"side": name, "step_ms": 1e3 * step, "update_ms": 1e3 * update, "error": error.mean().item(),
             "megabytes": side.touched() / 1e6}
        )  # fmt: skip
    return rows


def _update(side: Clustered, joins: int, k: Tensor, v: Tensor, q: Tensor, scale: float, step: float) -> float:
    """Seconds of clustering per token: ``interval`` keys join at once, at sizes spread over the last block."""
    interval, block = side.layer.settings.interval, side.layer.settings.block
    total = 0.0
    for i in range(joins):
        # Fill the block, untimed, to where this join is to happen.
        h = side.layer.hierarchy
        wanted = int((i + 0.5) / joins * (block - interval))
        held = h.blocks[-1].end - h.blocks[-1].start
        missing = (wanted - held) % block
        missing -= min(missing, h.length - h.clustered - side.layer.settings.recent)
        side.append(k[:, :, : missing + 1], v[:, :, : missing + 1])
        h.join()
        side.append(k[:, :, : interval - 1], v[:, :, : interval - 1])
        side.append(k[:, :, :1], v[:, :, :1])
        start = _clock(q.device)
        side.step(q[:, :, :1], scale)
        total += _clock(q.device) - start - step
    return max(0.0, total / max(1, joins) / interval)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _average(layers: list[list[dict]], budget: float) -> list[dict]:
    """The mean over layers of every number, and what a step costs with its share of the updates."""
    rows = []
    for sides in zip(*layers, strict=True):
        row = {"side": sides[0]["side"], "budget": budget}
        row |= {key: statistics.mean(one[key] for one in sides) for key in sides[0] if key != "side"}
        row["total_ms"] = row["step_ms"] + row["update_ms"]
        rows.append(row)
    for row in rows:
        row["speedup"] = rows[0]["total_ms"] / row["total_ms"]
    return rows


def _line(r: dict) -> str:
    return (
        f"{r['side']:16} {r['budget']:6g} {r['step_ms']:9.3f} {r['update_ms']:9.3f} {r['total_ms']:8.3f} "
        f"{r['speedup']:8.2f} {r['error']:9.5f} {r['megabytes']:8.2f}"
    )
