"""`multipole-lab bench decode --grow N`: memory and time per token while N tokens are generated."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from multipole_lab.bench.decode.baselines import Dense
from multipole_lab.decoding.cache import MultipoleCache

PARTS = 8
LAYERS = 4  # fewer than any model has; they share the buffers of a step
HEADING = f"{'keys':>8} {'dense MB':>9} {'cache MB':>9} {'above':>7} {'dense ms':>9} {'median ms':>10} {'mean ms':>9}"


def grow(
    q: Tensor, k: Tensor, v: Tensor, scale: float, tokens: int, budget: int | float, layers: int = LAYERS
) -> Iterator[dict]:
    """A row for each eighth of the last ``tokens`` of N positions, decoded one by one after the others.

    Parameters
    ----------
    q, k, v : [B, Hq, N, D], [B, Hk, N, D], [B, Hk, N, Dv].
    tokens : how many are decoded; below N.
    budget : of the cache, whose other settings are the usual ones.
    layers : of the cache; all get these keys and values.

    Yields
    ------
    Rows with ``keys`` at the end of the part; ``dense_megabytes`` of keys and values alone, ``megabytes`` of the
    whole clustered cache, and ``above``, the most by which it exceeded dense within the part, as a share;
    ``dense_ms``, ``median_ms`` and ``mean_ms`` of a step of all layers, the mean with its share of the clustering.

    Raises
    ------
    ValueError : fewer tokens than parts, or not fewer than N - 1.
    """
    N = k.shape[2]
    if not PARTS <= tokens < N - 1:
        raise ValueError(f"tokens is {tokens}; {PARTS} to {N - 2} is allowed for {N} keys")
    cache, dense = MultipoleCache(budget=budget, dense_until=0), [Dense() for _ in range(layers)]
    row = layers * (k[:, :, :1].numel() + v[:, :, :1].numel()) * k.element_size()

    def ours(i: int, t: int) -> None:
        cache.update(k[:, :, t : t + 1], v[:, :, t : t + 1], i)
        cache.layers[i].attend(q[:, :, t : t + 1], None, scale)

    def theirs(i: int, t: int) -> None:
        dense[i].append(k[:, :, t : t + 1], v[:, :, t : t + 1])
        dense[i].step(q[:, :, t : t + 1], scale)

    first = N - tokens
    for i in range(layers):
        cache.update(k[:, :, : first - 1], v[:, :, : first - 1], i)
        dense[i].append(k[:, :, : first - 1], v[:, :, : first - 1])
        ours(i, first - 1)  # clusters the prompt
        theirs(i, first - 1)
    for part in torch.arange(first, N).tensor_split(PARTS):
        times: dict[str, list[float]] = {"dense": [], "ours": []}
        above = 0.0
        for t in part.tolist():
            for name, step in (("dense", theirs), ("ours", ours)):
                start = time.perf_counter()
                for i in range(layers):
                    step(i, t)
                if k.is_cuda:
                    torch.cuda.synchronize()
                times[name].append(1e3 * (time.perf_counter() - start))
            above = max(above, cache.nbytes["total"] / (row * (t + 1)) - 1)
        yield {
            "keys": t + 1,
            "dense_megabytes": row * (t + 1) / 1e6,
            "megabytes": cache.nbytes["total"] / 1e6,
            "above": above,
            "dense_ms": statistics.median(times["dense"]),
            "median_ms": statistics.median(times["ours"]),
            "mean_ms": statistics.mean(times["ours"]),
        }


def line(r: dict) -> str:
    """A row as text, under ``HEADING``."""
    return (
        f"{r['keys']:8d} {r['dense_megabytes']:9.2f} {r['megabytes']:9.2f} {r['above']:7.1%} "
        f"{r['dense_ms']:9.3f} {r['median_ms']:10.3f} {r['mean_ms']:9.3f}"
    )
