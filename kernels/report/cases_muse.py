"""Examples of MuSe with clusters of any members for the compile report, and what their launchers cost."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..by_query.choose import fits
from ..by_query.evaluate import evaluate_by_query
from ..muse.causal import muse_causal
from ..muse.dipole import dipole
from ..muse.evaluate import evaluate
from ..muse.forward import muse
from ..muse.levels import join_levels
from ..muse.merged import Tree, muse_merged
from ..muse.select import select_near
from ..muse.summarise import summarise
from .cases_exact import leaf_cost
from .problem import Problem


def muse_causal_example(p: Problem) -> None:
    """Two levels, as many kernels as any number of them."""

    heads, C, clusters = (p.batch * p.query_heads, p.batch * p.kv_heads), p.clusters, []
    for pairs in (2, 1):
        size = p.queries // (2 * pairs)
        members = (
            (p.empty(pairs, h, size, dtype=torch.int64), p.empty(pairs, h, C + 1, dtype=torch.int64))
            for h in heads
        )
        centroids = p.empty(pairs, heads[0], C, p.head, dtype=torch.float32)
        clusters.append((centroids, *(x for pair in members for x in pair)))
    q = p.empty(p.batch, p.query_heads, p.queries, p.head).requires_grad_()
    k, v = (p.empty(p.batch, p.kv_heads, p.queries, p.head).requires_grad_() for _ in "kv")
    out, lse = muse_causal(q, k, v, clusters, p.queries // 4, 0.125, p.near)
    torch.autograd.backward((out, lse), (p.empty(*out.shape), p.empty(*lse.shape, dtype=torch.float32)))
    places = [x[1].shape for x in clusters]  # without a derivative the levels' results are merged at the end
    partials = (
        [p.empty(*place, p.head) for place in places],
        [p.empty(*x, dtype=torch.float32) for x in places],
    )
    whole = heads[0], p.queries
    join_levels(p.empty(*whole, p.head), p.empty(*whole, 1, dtype=torch.float32), *partials)


def muse_causal_cost(p: Problem) -> tuple[float, float]:
    """Leaves of 1,024, and the levels above: each is `muse` of half of the queries over half of the keys."""
    levels = max(0, (p.queries // 1024).bit_length() - 1)
    parts = [leaf_cost(p)]
    for level in range(levels):
        blocks = p.queries // 1024 >> level + 1
        half = replace(p, batch=p.batch * blocks, queries=1024 << level, keys=1024 << level)
        parts.append(muse_cost(half))
    return sum(moved for moved, _ in parts), sum(operations for _, operations in parts)


def muse_merged_example(p: Problem) -> None:
    """Four leaves, and a quarter as many clusters of queries."""
    (Hq, Hk), n, Cq = (p.batch * p.query_heads, p.batch * p.kv_heads), p.queries // 4, p.clusters // 4

    def empty(*shape: int) -> torch.Tensor:
        return p.empty(*shape, dtype=torch.int64)

    centroids = p.empty(4, Hq, Cq, p.head, dtype=torch.float32)
    of_keys = empty(2, 2 * Hk * n), empty(3, Hk, p.clusters + 1)
    tree = Tree(centroids, empty(4, Hq, n), empty(4, Hq, Cq + 1), *of_keys)
    q = p.empty(p.batch, p.query_heads, p.queries, p.head).requires_grad_()
    k, v = (p.empty(p.batch, p.kv_heads, p.queries, p.head).requires_grad_() for _ in "kv")
    out, lse = muse_merged(q, k, v, tree, 0.125, p.near)
    torch.autograd.backward((out, lse), (p.empty(*out.shape), p.empty(*lse.shape, dtype=torch.float32)))


def dipole_example(p: Problem) -> None:
    B, Hq, C, D = p.batch, p.query_heads, p.clusters, p.head
    keys = p.empty(B, p.kv_heads, p.keys, D)
    dipole(
        p.empty(B, Hq, C, D),
        keys,
        keys,
        p.empty(B, p.kv_heads, p.keys, dtype=torch.int64),
        p.empty(B, p.kv_heads, C + 1, dtype=torch.int64),
        p.empty(B, Hq, C, C, dtype=torch.float32),
        p.empty(B, Hq, C, dtype=torch.float32),
        *2 * [p.empty(B, Hq, C, C, D)],
        p.empty(B, Hq, C, D, p.rank),
        0.125,
    )


def dipole_cost(p: Problem) -> tuple[float, float]:
    keys, rows = p.batch * p.kv_heads * p.keys, p.batch * p.query_heads * p.clusters
    moved = keys * (2 * p.head * p.width + 8) + rows * (p.clusters + 4 * p.rank) * p.head * p.width
    return moved, p.batch * p.query_heads * p.keys * p.clusters * p.rank * 6 * p.head


def evaluate_example(p: Problem) -> None:
    B, Hq, Hk, C, D = p.batch, p.query_heads, p.kv_heads, p.clusters, p.head
    keys = p.empty(B, Hk, p.keys, D)
    sorted_queries = p.empty(B, Hq, p.queries, dtype=torch.int64), p.empty(B, Hq, C + 1, dtype=torch.int64)
    sorted_keys = p.empty(B, Hk, p.keys, dtype=torch.int64), p.empty(B, Hk, C + 1, dtype=torch.int64)
    near = p.empty(B, Hq, C, p.near, dtype=torch.int32), p.empty(B, Hq, C, C, dtype=torch.float32)
    means = p.empty(B, Hq, C, C, D)
    rest = (p.empty(B, Hq, C, D), *sorted_queries, *sorted_keys, *near, means, means, 0.125)
    q = p.empty(B, Hq, p.queries, D)
    evaluate(q, keys, keys, *rest)
    moment = p.empty(B, Hq, C, p.rank, D, dtype=torch.float32)
    evaluate(q, keys, keys, *rest, basis=p.empty(B, Hq, C, D, p.rank), moment=moment)


def by_query_example(p: Problem) -> None:
    """Of the clusters there are as many as a program has place for, if it has for any."""
    B, Hq, Hk, D, C = p.batch, p.query_heads, p.kv_heads, p.head, p.clusters
    q, keys = p.empty(B, Hq, p.queries, D), p.empty(B, Hk, p.keys, D)
    while C and not fits(q, keys, C):
        C //= 2
    if not C:
        return
    sorts = (
        p.empty(B, h, x, dtype=torch.int64) for h, n in ((Hq, p.queries), (Hk, p.keys)) for x in (n, C + 1)
    )
    mass, means = p.empty(B, Hq, C, C, dtype=torch.float32), p.empty(B, Hq, C, C, D)
    evaluate_by_query(q, keys, keys, p.empty(B, Hq, C, D), *sorts, mass, means, means, 0.125, max(1, p.near))


def by_query_cost(p: Problem) -> tuple[float, float]:
    """What a choice moves beside that: its query, its partial twice, and 56 bytes of labels, orders and lse."""
    moved, done = evaluate_cost(replace(p, rank=0))
    choices = p.batch * p.query_heads * p.queries * p.near
    return moved + choices * (3 * p.head * p.width + 56), done


def evaluate_cost(p: Problem) -> tuple[float, float]:
    queries, keys = p.batch * p.query_heads * p.queries, p.batch * p.kv_heads * p.keys
    summaries = p.batch * p.query_heads * p.clusters**2
    moved = queries * (2 * p.head * p.width + 12) + summaries * (2 * p.head * p.width + 4)
    moved += keys * (2 * p.head * p.width + 8)
    return moved, 4 * queries * p.head * (p.clusters + p.near * p.keys / p.clusters + p.rank)


def muse_example(p: Problem, order: str = "monopole") -> None:
    B, Hq, Hk, C, D = p.batch, p.query_heads, p.kv_heads, p.clusters, p.head
    q = p.empty(B, Hq, p.queries, D).requires_grad_()
    k, v = (p.empty(B, Hk, p.keys, D).requires_grad_() for _ in "kv")
    q_sort = p.empty(B, Hq, p.queries, dtype=torch.int64), p.empty(B, Hq, C + 1, dtype=torch.int64)
    k_sort = p.empty(B, Hk, p.keys, dtype=torch.int64), p.empty(B, Hk, C + 1, dtype=torch.int64)
    centroids = p.empty(B, Hq, C, D, dtype=torch.float32)
    basis = p.empty(B, Hq, C, D, p.rank).requires_grad_() if order == "dipole" else None
    out, lse = muse(q, k, v, centroids, *q_sort, *k_sort, 0.125, p.near, order, basis)
    torch.autograd.backward((out, lse), (p.empty(*out.shape), p.empty(*lse.shape, dtype=torch.float32)))


def muse_cost(p: Problem, order: str = "monopole") -> tuple[float, float]:
    """Forward and backward: the launches of both, and the summaries once more in the backward."""
    p = replace(p, rank=p.rank if order == "dipole" else 0)
    parts = [summarise_cost, select_near_cost, evaluate_cost, summarise_cost, select_near_cost, backward_cost]
    parts += [dipole_cost] if order == "dipole" else []
    costs = [part(p) for part in parts]
    return sum(moved for moved, _ in costs), sum(operations for _, operations in costs)


def select_near_example(p: Problem) -> None:
    select_near(p.empty(p.batch, p.query_heads, p.clusters, p.clusters, dtype=torch.float32), p.near)


def select_near_cost(p: Problem) -> tuple[float, float]:
    summaries = p.batch * p.query_heads * p.clusters**2
    return 8 * summaries, 2 * (p.near + 2) * summaries


def summarise_example(p: Problem) -> None:
    keys = p.empty(p.batch, p.kv_heads, p.keys, p.head)
    order = p.empty(p.batch, p.kv_heads, p.keys, dtype=torch.int64)
    offsets = p.empty(p.batch, p.kv_heads, p.clusters + 1, dtype=torch.int64)
    summarise(p.empty(p.batch, p.query_heads, p.clusters, p.head), keys, keys, order, offsets, 0.125)


def summarise_cost(p: Problem) -> tuple[float, float]:
    keys = p.batch * p.kv_heads * p.keys
    summaries = p.batch * p.query_heads * p.clusters**2
    moved = keys * (2 * p.head * p.width + 8) + summaries * (2 * p.head * p.width + 4)
    return moved, p.batch * p.query_heads * p.keys * p.clusters * 6 * p.head


def backward_cost(p: Problem) -> tuple[float, float]:
    """Bytes and operations by the formulas of the backward launchers; no dipole where the rank is 0."""
    queries, keys = p.batch * p.query_heads * p.queries, p.batch * p.kv_heads * p.keys
    rows, pairs = p.batch * p.query_heads * p.clusters, p.batch * p.query_heads * p.keys * p.clusters
    moved = (4 * queries + 4 * keys) * p.head * p.width
    moved += 3 * rows * p.head * (p.clusters * (2 * p.width + 8) + p.rank * (8 + p.width))
    products = queries * (14 * (p.clusters + p.near * p.keys / p.clusters) + 16 * p.rank)
    return moved, (products + pairs * (20 + 26 * p.rank)) * p.head
