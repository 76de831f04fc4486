"""Examples of exact attention and centroid replacement for the compile report, and what their launchers cost."""

from __future__ import annotations

import torch

from ..centroid.replace import centroid_field, member_means
from ..common.visible import Band
from ..exact.leaf import leaf
from .problem import Problem


def centroid_field_example(p: Problem) -> None:
    R, M = p.batch * p.kv_heads, p.query_heads // p.kv_heads * p.queries
    q = p.empty(R, M, p.head).requires_grad_()
    keys = p.empty(R, p.keys, p.head).requires_grad_()
    labels, counts = p.empty(R, p.keys, dtype=torch.int64), p.empty(R, p.clusters, dtype=torch.int64)
    means = member_means(keys, labels, counts, labels, p.empty(R, p.clusters + 1, dtype=torch.int64)).to(
        p.dtype
    )
    for replaced in (None, p.empty(R, M, p.clusters, dtype=torch.bool)):
        out, lse = centroid_field(q, means, means, counts, 0.125, replaced)
        grads = p.empty(*out.shape), p.empty(*lse.shape, dtype=torch.float32)
        torch.autograd.backward((out, lse), grads, retain_graph=True)


def centroid_field_cost(p: Problem) -> tuple[float, float]:
    """Forward, everything replaced: the means of the keys, and the field."""
    queries, keys = p.batch * p.query_heads * p.queries, p.batch * p.kv_heads * p.keys
    moved = (2 * queries + keys) * p.head * p.width + 8 * keys
    return moved, keys * p.head + 4 * queries * p.clusters * p.head


def leaf_example(p: Problem) -> None:
    blocks = max(1, p.queries // 1024)
    q = p.empty(p.batch * blocks, p.query_heads, 1024, p.head).requires_grad_()
    k, v = (p.empty(p.batch * blocks, p.kv_heads, 1024, p.head).requires_grad_() for _ in "kv")
    for band in (None, Band(behind=511, ahead=0, sinks=4)):
        out, lse = leaf(q, k, v, 0.125, band=band)
        torch.autograd.backward((out, lse), (p.empty(*out.shape), p.empty(*lse.shape, dtype=torch.float32)))


def leaf_cost(p: Problem) -> tuple[float, float]:
    """Forward and backward of causal leaves of 1,024."""
    queries, keys = p.batch * p.query_heads * p.queries, p.batch * p.kv_heads * p.keys
    return (4 * queries + 6 * keys) * p.head * p.width, 3.5 * 2 * queries * 1024 * p.head
