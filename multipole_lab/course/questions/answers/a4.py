"""Assignment 4: the right answers, query by query and pair by pair."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plan(n: int, leaf: int, up: int = 1) -> list[tuple[int, int, int, int]]:
    waiting, blocks = [(0, n)], []
    while waiting:
        start, stop = waiting.pop()
        if stop - start <= max(leaf, 1):
            blocks.append((start, stop, start, stop))
            continue
        middle = start + (stop - start + up) // 2
        waiting += [(start, middle), (middle, stop)]
        blocks.append((middle, stop, start, middle))
    return sorted(blocks)


def coverage(blocks: list[tuple[int, int, int, int]], n: int) -> Tensor:
    count = [[0] * n for _ in range(n)]
    for q0, q1, k0, k1 in blocks:
        for i in range(q0, q1):
            for j in range(k0, k1):
                count[i][j] += j <= i or (q0, q1) != (k0, k1)
    return torch.tensor(count)


def hierarchical(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    leaf: int,
    chunk: int,
    counted: bool = True,
    causal: bool = True,
) -> Tensor:
    q, k, v = q.double(), k.double(), v.double()
    blocks, out = plan(len(q), leaf), []
    for i in range(len(q)):
        logits, values = [], []
        for q0, q1, k0, k1 in blocks:
            if not q0 <= i < q1:
                continue
            exact = (q0, q1) == (k0, k1)
            step, stop = (1, i + 1 if causal else k1) if exact else (chunk, k1)
            for start in range(k0, stop, step):
                end = min(start + step, stop)
                logits.append(
                    scale * q[i] @ k[start:end].mean(0) + (math.log(end - start) if counted else 0.0)
                )
                values.append(v[start:end].mean(0))
        out.append(torch.stack(logits).softmax(0) @ torch.stack(values))
    return torch.stack(out)


def work(n: int, leaf: int, clusters: int) -> int:
    return sum(
        sum(range(1, q1 - q0 + 1)) if q0 == k0 else (q1 - q0) * clusters + (k1 - k0) * clusters
        for q0, q1, k0, k1 in plan(n, leaf)
    )


def crossover(leaf: int, clusters: int) -> int:
    return next(n for n in (leaf << i for i in range(40)) if work(n, leaf, clusters) < n * (n + 1) / 2)


def quarters(q: Tensor, k: Tensor, v: Tensor, scale: float, leaf: int, chunk: int) -> list[float]:
    wrong, size = errors(q, k, v, scale, leaf, chunk)
    return [float(a.sum() / b.sum()) for a, b in zip(wrong.chunk(4), size.chunk(4), strict=True)]


def best_leaf(n: int, clusters: int) -> int:
    leaves = [1 << i for i in range((n - 1).bit_length() + 1)]
    costs = [work(n, leaf, clusters) for leaf in leaves]
    return leaves[costs.index(min(costs))]


def errors(q, k, v, scale, leaf, chunk):
    exact = hierarchical(q, k, v, scale, len(q), 1)
    return (hierarchical(q, k, v, scale, leaf, chunk) - exact).square().sum(1), exact.square().sum(1)
