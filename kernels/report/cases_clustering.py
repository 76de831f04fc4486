"""Examples of clustering for the compile report, and what its launchers cost."""

from __future__ import annotations

import torch

from ..clustering import few, short
from ..clustering.assign import assign
from ..clustering.capped import capped_rounds
from ..clustering.centroids import cluster_means, restart_empty
from ..clustering.covariance import covariances
from ..clustering.lloyd import fits, lloyd
from ..clustering.merge import merge_levels
from ..clustering.seeds import seeds_at
from ..clustering.sort import LONGEST, sort_by_label
from ..common.sizes import spans
from .problem import Problem


def assign_example(p: Problem) -> None:
    x = p.empty(p.batch, p.kv_heads, p.keys, p.head)
    assign(x, seeds_at(x, p.empty(p.clusters, dtype=torch.int64)))  # as k-means begins


def assign_cost(p: Problem) -> tuple[float, float]:
    vectors = p.batch * p.kv_heads * p.keys
    moved = vectors * (p.head * p.width + 12) + 4 * p.batch * p.kv_heads * p.clusters * p.head
    return moved, (2 if p.width == 4 else 4) * vectors * p.clusters * p.head


def capped_rounds_example(p: Problem) -> None:
    B, H, N, C = p.batch, p.kv_heads, p.keys, p.clusters
    labels = p.empty(B, H, N, dtype=torch.int64)
    capped_rounds(
        p.empty(B, H, N, p.head),
        p.empty(B, H, C, p.head, dtype=torch.float32),
        labels,
        p.empty(B, H, N, dtype=torch.float32),
        labels,
        p.empty(B, H, C + 1, dtype=torch.int64),
        p.empty(B, H, dtype=torch.int32),
    )


def capped_rounds_cost(p: Problem) -> tuple[float, float]:
    heads, left = p.batch * p.kv_heads, p.keys / 8  # an eighth left over after the first round, as measured
    moved = heads * (20 * p.keys + left * (p.head * p.width + 24) + 4 * p.clusters * p.head)
    return moved, heads * (left**2 + 4 * left * p.clusters * p.head)


def capped_few_example(p: Problem) -> None:
    x = p.empty(p.batch, p.kv_heads, p.keys, p.head)
    if few.fits(x, p.clusters):
        seeds = p.empty(p.batch, p.kv_heads, p.clusters, p.head, dtype=torch.float32)
        few.capped_few(x, seeds, 1.5)
        few.capped_few(x, seeds, 1.5, p.empty(p.batch, p.keys, dtype=torch.bool), means=False)


def capped_few_cost(p: Problem) -> tuple[float, float]:
    vectors = p.batch * p.kv_heads * p.keys
    moved = vectors * (2 * p.head * p.width + 21) + 4 * p.batch * p.kv_heads * p.clusters * p.head
    return moved, vectors * p.clusters * ((4 if p.width == 4 else 6) * p.head + 10)


def cluster_means_example(p: Problem) -> None:
    B, H, N, C = p.batch, p.kv_heads, p.keys, p.clusters
    x, labels = p.empty(B, H, N, p.head), p.empty(B, H, N, dtype=torch.int64)
    means = cluster_means(x, labels, p.empty(B, H, C + 1, dtype=torch.int64))
    distances = p.empty(B, H, N, dtype=torch.float32)
    restart_empty(x, labels, distances, p.empty(B, H, C, dtype=torch.int64), means)


def cluster_means_cost(p: Problem) -> tuple[float, float]:
    vectors = p.batch * p.kv_heads * p.keys
    moved = vectors * (p.head * p.width + 8) + 4 * p.batch * p.kv_heads * p.clusters * p.head
    return moved, vectors * p.head


def covariances_example(p: Problem) -> None:
    B, H, N, C = p.batch, p.query_heads, p.queries, p.clusters
    sort = p.empty(B, H, N, dtype=torch.int64), p.empty(B, H, C + 1, dtype=torch.int64)
    x = p.empty(B, H, N, p.head).requires_grad_()
    squares = covariances(x, p.empty(B, H, C, p.head, dtype=torch.float32), *sort)
    squares.backward(p.empty(*squares.shape, dtype=torch.float32))


def covariances_cost(p: Problem) -> tuple[float, float]:
    """Forward and backward."""
    vectors, rows = p.batch * p.query_heads * p.queries, p.batch * p.query_heads * p.clusters
    moved = vectors * (3 * p.head * p.width + 16) + 8 * rows * p.head**2
    return moved, 4 * vectors * p.head**2


def lloyd_example(p: Problem) -> None:
    x = p.empty(p.batch, p.kv_heads, p.keys, p.head)
    if fits(x, p.clusters):
        lloyd(x, p.empty(p.batch, p.kv_heads, p.clusters, p.head, dtype=torch.float32), sort=True)


def lloyd_cost(p: Problem) -> tuple[float, float]:
    vectors = p.batch * p.kv_heads * p.keys
    parts = spans(p.keys, p.batch * p.kv_heads)[1] * p.batch * p.kv_heads
    moved = vectors * (p.head * p.width + 12) + 8 * parts * p.clusters * p.head
    return moved, (4 if p.width == 4 else 6) * vectors * p.clusters * p.head


def short_kmeans_example(p: Problem) -> None:
    x = p.empty(p.batch * p.keys // 1024, p.kv_heads, 1024, p.head)
    if short.fits(x, p.clusters):
        seeds = p.empty(*x.shape[:2], p.clusters, p.head, dtype=torch.float32)
        for cap in (None, 1.5):
            short.short_kmeans(x, seeds, cap=cap)


def short_kmeans_cost(p: Problem) -> tuple[float, float]:
    """One iteration and a cap."""
    vectors = p.batch * p.kv_heads * p.keys
    moved = vectors * (4 * p.head * p.width + 40)
    return moved, 2 * (4 if p.width == 4 else 6) * vectors * p.clusters * p.head


def merge_levels_example(p: Problem) -> None:
    blocks, n = p.keys // 1024, 1024
    labels = p.empty(blocks, p.kv_heads, n, dtype=torch.int64)
    counts, offsets = (
        p.empty(blocks, p.kv_heads, m, dtype=torch.int64) for m in (p.clusters, p.clusters + 1)
    )
    means = p.empty(blocks, p.kv_heads, p.clusters, p.head, dtype=torch.float32)
    merge_levels(labels, means, counts, labels, offsets)


def merge_levels_cost(p: Problem) -> tuple[float, float]:
    blocks = p.keys // 1024
    levels = blocks.bit_length() - 1
    moved = p.kv_heads * (12 * levels * p.keys + 8 * blocks * p.clusters * p.head)
    return moved, 2 * p.kv_heads * blocks * p.clusters**2 * p.head


def sort_example(p: Problem) -> None:
    sort_by_label(p.empty(p.batch, p.kv_heads, p.keys, dtype=torch.int64), p.clusters)


def sort_cost(p: Problem) -> tuple[float, float]:
    vectors = p.batch * p.kv_heads * p.keys
    chunk = min(LONGEST, max(128, p.clusters))
    return 24 * vectors + 16 * (p.clusters + 1) * vectors / chunk, 128 * vectors
