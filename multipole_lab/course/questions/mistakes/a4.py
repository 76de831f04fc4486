"""Assignment 4, the causal hierarchy and its cost: the usual mistakes, and what to say of each."""

from __future__ import annotations

import math

import torch

from multipole_lab.course.questions.answers.a4 import coverage, errors, hierarchical, plan, work


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
    wrong, size = errors(q, k, v, scale, leaf, chunk)
    return (wrong / size).view(4, -1).mean(1).tolist()


def _whole_quarters(q, k, v, scale, leaf, chunk):
    wrong, size = errors(q, k, v, scale, leaf, chunk)
    return [float(a.sum() / size.sum()) for a in wrong.chunk(4)]


def _last_best(n: int, clusters: int) -> int:
    leaves = [1 << i for i in range((n - 1).bit_length() + 1)]
    return min(reversed(leaves), key=lambda leaf: work(n, leaf, clusters))


MISTAKES = {
    "A4.1": {
        "the left half is the longer one: round up.": lambda n, leaf: plan(n, leaf, up=0),
        "the queries of a square are on the right, its keys on the left.": _transposed_plan,
        "where are the squares?": _without_squares,
        "a span of exactly `leaf` positions is a leaf.": lambda n, leaf: plan(n, leaf - 1),
    },
    "A4.2": {
        "a leaf is causal: only keys up to the query.": _full_leaves,
        "rows are queries and columns are keys.": lambda blocks, n: coverage(blocks, n).T,
        "count: a pair that comes twice is a 2.": _flagged,
    },
    "A4.3": {
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
    "A4.4": {
        "a leaf of m positions has m (m + 1) / 2 pairs.": _square_work,
        "the summaries have to be made: m_k C.": _lookup_work,
    },
    "A4.5": {
        "less, not as much.": lambda leaf, clusters: next(
            n for n in (leaf << i for i in range(40)) if work(n, leaf, clusters) <= n * (n + 1) // 2
        ),
        "exact causal attention costs n (n + 1) / 2, not n^2.": lambda leaf, clusters: next(
            n for n in (leaf << i for i in range(40)) if work(n, leaf, clusters) < n * n
        ),
    },
    "A4.6": {
        "sum first, then divide: not the mean of the queries' own ratios.": _mean_quarters,
        "each quarter is divided by its own outputs.": _whole_quarters,
    },
    "A4.8": {
        "the smallest leaf where several are equally good.": lambda n, clusters: _last_best(n, clusters)
    },
}
