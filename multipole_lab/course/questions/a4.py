"""Assignment 4: the causal hierarchy and its cost. What is right, and what usually goes wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from multipole_lab.course.questions.question import Question, Random

# --- right, query by query and pair by pair ---------------------------------------------------------


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
    wrong, size = _errors(q, k, v, scale, leaf, chunk)
    return [float(a.sum() / b.sum()) for a, b in zip(wrong.chunk(4), size.chunk(4), strict=True)]


def best_leaf(n: int, clusters: int) -> int:
    leaves = [1 << i for i in range((n - 1).bit_length() + 1)]
    costs = [work(n, leaf, clusters) for leaf in leaves]
    return leaves[costs.index(min(costs))]


# --- wrong ----------------------------------------------------------------------------------------


def _errors(q, k, v, scale, leaf, chunk):
    exact = hierarchical(q, k, v, scale, len(q), 1)
    return (hierarchical(q, k, v, scale, leaf, chunk) - exact).square().sum(1), exact.square().sum(1)


def _transposed_plan(n, leaf):
    return sorted((k0, k1, q0, q1) for q0, q1, k0, k1 in plan(n, leaf))


def _without_squares(n, leaf):
    return [block for block in plan(n, leaf) if block[0] == block[2]]


def _full_leaves(blocks, n):
    count = torch.zeros(n, n, dtype=torch.int64)
    for q0, q1, k0, k1 in blocks:
        count[q0:q1, k0:k1] += 1
    return count


def _flagged(blocks, n):
    return coverage(blocks, n).clamp(max=1)


def _averaged(q, k, v, scale, leaf, chunk):
    """Adds the partials up with equal weights."""
    out = torch.zeros(len(q), v.shape[1])
    count = torch.zeros(len(q), 1)
    for q0, q1, k0, k1 in plan(len(q), leaf):
        if q0 == k0:
            here = hierarchical(q[q0:q1], k[k0:k1], v[k0:k1], scale, q1 - q0, 1)
        else:
            rows = [(k[i : min(i + chunk, k1)], v[i : min(i + chunk, k1)]) for i in range(k0, k1, chunk)]
            logits = torch.stack([scale * q[q0:q1] @ a.mean(0) + math.log(len(a)) for a, _ in rows], 1)
            here = logits.softmax(1) @ torch.stack([b.mean(0) for _, b in rows])
        out[q0:q1] += here
        count[q0:q1] += 1
    return out / count


def _square_work(n, leaf, clusters):
    return sum(
        (q1 - q0) ** 2 if q0 == k0 else (q1 - q0 + k1 - k0) * clusters for q0, q1, k0, k1 in plan(n, leaf)
    )


def _lookup_work(n, leaf, clusters):
    return work(n, leaf, clusters) - sum((k1 - k0) * clusters for q0, _, k0, k1 in plan(n, leaf) if q0 != k0)


def _mean_quarters(q, k, v, scale, leaf, chunk):
    wrong, size = _errors(q, k, v, scale, leaf, chunk)
    return (wrong / size).view(4, -1).mean(1).tolist()


def _whole_quarters(q, k, v, scale, leaf, chunk):
    wrong, size = _errors(q, k, v, scale, leaf, chunk)
    return [float(a.sum() / size.sum()) for a in wrong.chunk(4)]


def _inputs(r: Random, N: int, leaf: int, chunk: int) -> tuple:
    return r(N, 4), r(N, 4), r(N, 3), 0.6, leaf, chunk


QUESTIONS = {
    "A4.1": Question(
        lambda r: [
            ("a power of two", (8, 2)),
            ("odd lengths", (5 + int(r.integers(0, 9, 1)), 2)),
            ("one leaf", (3, 4)),
            ("leaves of one position", (6, 1)),
        ],
        plan,
        {
            "the left half is the longer one: round up.": lambda n, leaf: plan(n, leaf, up=0),
            "the queries of a square are on the right, its keys on the left.": _transposed_plan,
            "where are the squares?": _without_squares,
            "a span of exactly `leaf` positions is a leaf.": lambda n, leaf: plan(n, leaf - 1),
        },
        hint="the list has to be sorted, and its items are tuples of four integers.",
    ),
    "A4.2": Question(
        lambda r: [
            ("a right plan", (plan(9, 2), 9)),
            ("a block twice", (plan(6, 2) + plan(6, 2)[:2], 6)),
            ("a block missing", (plan(7, 3)[1:], 7)),
        ],
        coverage,
        {
            "a leaf is causal: only keys up to the query.": _full_leaves,
            "rows are queries and columns are keys.": lambda blocks, n: coverage(blocks, n).T,
            "count: a pair that comes twice is a 2.": _flagged,
        },
    ),
    "A4.3": Question(
        lambda r: [
            ("chunks of one key (this is exact attention)", _inputs(r, 12, 3, 1)),
            ("chunks of three", _inputs(r, 12, 3, 3)),
            ("an odd length", _inputs(r, 17, 4, 4)),
            ("one leaf", _inputs(r, 5, 8, 2)),
        ],
        hierarchical,
        {
            "a chunk of m keys counts m times: log m.": lambda *args: hierarchical(*args, counted=False),
            "partials are merged by their log-sum-exps, not averaged.": _averaged,
            "leaves are causal.": lambda *args: hierarchical(*args, causal=False),
            "that is exact attention: the squares are to be approximated.": lambda q, k, v, scale, leaf, chunk: (
                hierarchical(q, k, v, scale, leaf, 1)
            ),
            "did you forget the scale?": lambda q, k, v, scale, leaf, chunk: hierarchical(
                q, k, v, 1.0, leaf, chunk
            ),
        },
        tol=1e-3,
        hint="chunk=1 must give exact causal attention: start there.",
    ),
    "A4.4": Question(
        lambda r: [("a power of two", (32, 4, 3)), ("an odd length", (45, 7, 2)), ("one leaf", (5, 9, 4))],
        work,
        {
            "a leaf of m positions has m (m + 1) / 2 pairs.": _square_work,
            "the summaries have to be made: m_k C.": _lookup_work,
        },
    ),
    "A4.5": Question(
        lambda r: [("few clusters", (32, 4)), ("many clusters", (4, 16)), ("break even", (16, 8))],
        crossover,
        {
            "less, not as much.": lambda leaf, clusters: next(
                n for n in (leaf << i for i in range(40)) if work(n, leaf, clusters) <= n * (n + 1) // 2
            ),
            "exact causal attention costs n (n + 1) / 2, not n^2.": lambda leaf, clusters: next(
                n for n in (leaf << i for i in range(40)) if work(n, leaf, clusters) < n * n
            ),
        },
    ),
    "A4.6": Question(
        lambda r: [("ordinary inputs", _inputs(r, 16, 2, 3)), ("another size", _inputs(r, 24, 3, 5))],
        quarters,
        {
            "sum first, then divide: not the mean of the queries' own ratios.": _mean_quarters,
            "each quarter is divided by its own outputs.": _whole_quarters,
        },
        tol=1e-2,
    ),
    "A4.8": Question(
        lambda r: [("a power of two", (256, 8)), ("an odd length", (300, 20)), ("many clusters", (32, 99))],
        best_leaf,
        {"the smallest leaf where several are equally good.": lambda n, clusters: _last_best(n, clusters)},
    ),
}


def _last_best(n: int, clusters: int) -> int:
    leaves = [1 << i for i in range((n - 1).bit_length() + 1)]
    return min(reversed(leaves), key=lambda leaf: work(n, leaf, clusters))
