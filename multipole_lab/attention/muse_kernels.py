"""MuSe by the Triton kernels: what they are given; ``muse_computed`` chooses. The host sees no value of q or k.

Kernels are imported only where they run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.calls.replay import repeating, replayed
from multipole_lab.attention.causal import block_sizes
from multipole_lab.attention.clusters.points import join_earlier
from multipole_lab.attention.clusters.slots import Labels
from multipole_lab.attention.expansion import leading_directions
from multipole_lab.attention.partials import Partial

if TYPE_CHECKING:
    from multipole_lab.attention.muse import MuSe


def in_graphs(compute: Callable[..., Partial]) -> Callable[..., Partial]:
    """The computation, which repeats as a CUDA graph where no gradient and no padding is asked for."""

    @wraps(compute)
    def call(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        if mask is not None or graded(q, k, v):
            return compute(method, q, k, v, scale, mask)
        name = compute.__name__, method, scale
        return replayed(name, lambda *tensors: compute(method, *tensors, scale, None), q, k, v)

    return call


def graded(*tensors: Tensor) -> bool:
    """Whether a gradient flows to one of the tensors."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


@in_graphs
def full(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
    """Every query over every key that is no padding."""
    if mask is None:
        found = replayed(("clusters", method), partial(_both_clusters, method), q, k)
    else:
        found = _both_clusters(method, q, k, mask)
    return _of_clusters(method, q, k, v, scale, found, method._partition.number(k.shape[2]))


def of_labels(
    method: MuSe,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    labels: tuple[Labels, Labels],
) -> Partial:
    """The same where the clusters are found already; -1 in the labels of the keys stands for the mask."""
    from multipole_lab.kernels.clustering.centroids import cluster_means
    from multipole_lab.kernels.clustering.sort import sort_by_label

    of_queries, of_keys = labels
    order, offsets, _ = sort_by_label(of_queries.of, of_queries.clusters)
    centroids = cluster_means(q.detach(), order, offsets)
    found = centroids, order, offsets, *sort_by_label(of_keys.of, of_keys.clusters)[:2]
    return _of_clusters(method, q, k, v, scale, found, of_keys.clusters)


def around_earlier(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, earlier: Tensor
) -> Partial:
    """Every query joins the nearest of the clusters of earlier ones, whose means are the points: no dipole."""
    from multipole_lab.kernels.apart.around import muse_around
    from multipole_lab.kernels.by_query.muse import muse_by_query
    from multipole_lab.kernels.centroid.replace import member_means

    join = partial(join_earlier, method._query_partition)
    *of_earlier, order, offsets = replayed(("joined clusters", method), join, earlier, q)
    means = member_means(earlier.flatten(0, 1), *(x.flatten(0, 1) for x in of_earlier), raw=False)
    points = means.unflatten(0, q.shape[:2]).to(q.dtype)
    sorts = order, offsets, *method._partition.sort_on_device(k, mask)
    near = min(method.near, method._partition.number(k.shape[2]))
    if method._one_by_one:
        return muse_by_query(q, k, v, points, *sorts, scale, near, padded=False)
    return muse_around(q, k, v, points, *sorts, scale, near)


def _of_clusters(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, found: tuple[Tensor, ...], number: int
) -> Partial:
    """Attention of what ``_both_clusters`` found, with that many clusters of keys."""
    from multipole_lab.kernels.by_query.muse import muse_by_query
    from multipole_lab.kernels.clustering.covariance import covariances
    from multipole_lab.kernels.muse.forward import muse

    near = min(method.near, number)
    if method._one_by_one:
        return muse_by_query(q, k, v, *found, scale, near, padded=False)
    rank, basis = method._rank(q.shape[-1]), None
    if 0 < rank < q.shape[-1]:
        basis = leading_directions(covariances(q, *found[:3]), rank)
    return muse(q, k, v, *found, scale, near, method.order, basis, padded=False, run=repeating(q))


@in_graphs
def causal(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: None) -> Partial:
    """All causal blocks in one pass, without padding and with a monopole."""
    from multipole_lab.kernels.muse.causal import muse_causal, muse_causal_found
    from multipole_lab.kernels.muse.merged import Tree, muse_merged

    heads, N = q.shape[:2], q.shape[2]
    block, levels = block_sizes(N, method.leaf)
    # Batch entries become heads here, once for all that follows.
    q, k, v = (x.flatten(0, 1)[None] for x in _filled_up(q, k, v, block << levels))
    if method._merged:
        parts = partial(_merged_parts, method, block, scale)
        out, lse, *tree = replayed(("merged parts", method, block, scale), parts, q, k, v)
        out, lse = muse_merged(q, k, v, Tree(*tree), scale, method.near, (out, lse), repeating(q))
        return out[0, :, :N].unflatten(0, heads), lse[0, :, :N].unflatten(0, heads)
    if not graded(q, k, v):
        find = partial(_both_clusters, method)
        out, lse = muse_causal_found(q, k, v, find, block, levels, scale, method.near, method._one_by_one)
        return out[0, :, :N].unflatten(0, heads), lse[0, :, :N].unflatten(0, heads)
    parts = partial(_causal_parts, method, block, levels, scale)
    leaves, *found = replayed(("causal parts", method, block, scale), parts, q, k, v)
    clusters = [found[i : i + 5] for i in range(1, len(found), 5)]
    out, lse = muse_causal(q, k, v, clusters, block, scale, method.near, (leaves, found[0]), repeating(q))
    return out[0, :, :N].unflatten(0, heads), lse[0, :, :N].unflatten(0, heads)


def _both_clusters(method: MuSe, q: Tensor, k: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    """Centroids, order and offsets of the queries, then order and offsets of the keys."""
    from multipole_lab.kernels.common.graphs import in_branches

    of_queries, of_keys = method._query_partition, method._partition
    a, b = in_branches([lambda: of_queries.on_device(q), lambda: of_keys.sort_on_device(k, mask)])
    return a.centroids, a.order, a.offsets, *b


def _causal_parts(
    method: MuSe, block: int, levels: int, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, ...]:
    """What has no gradient: result and log-sum-exp of the leaves, then the clusters of every level."""
    from multipole_lab.kernels.common.graphs import in_branches
    from multipole_lab.kernels.muse.causal import causal_leaves

    found = in_branches(
        [
            partial(causal_leaves, q, k, v, block, scale),
            *(partial(_level_clusters, method, q, k, block << level) for level in range(levels)),
        ]
    )
    return tuple(x for part in found for x in part)


def _merged_parts(
    method: MuSe, block: int, scale: float, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, ...]:
    """The same where all clusters come from the leaves: their result, then the fields of a `Tree`."""
    from multipole_lab.kernels.clustering.merge import merge_levels
    from multipole_lab.kernels.common.graphs import in_branches
    from multipole_lab.kernels.muse.causal import causal_leaves

    of_queries, of_keys = (x.detach()[0].unflatten(1, (-1, block)).transpose(0, 1) for x in (q, k))

    def of_levels() -> tuple[Tensor, Tensor]:
        found = method._partition.of_leaves_on_device(of_keys)
        return merge_levels(found.labels, found.centroids, found.counts, found.order, found.offsets)

    leaves, points, keys = in_branches(
        [
            partial(causal_leaves, q, k, v, block, scale),
            partial(method._leaf_query_partition.of_leaves_on_device, of_queries),
            of_levels,
        ]
    )
    return *leaves, points.centroids, points.order, points.offsets, *keys


def _level_clusters(method: MuSe, q: Tensor, k: Tensor, size: int) -> tuple[Tensor, ...]:
    """The clusters of all pairs of blocks of a size, as ``muse_causal`` takes them."""
    from multipole_lab.kernels.common.layout import level_blocks

    return _both_clusters(method, *level_blocks(q.detach(), k.detach(), size))


def choose_one_by_one(method: MuSe, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> bool:
    """Whether the kernels let every query choose its near clusters: for a result without a gradient, and not of
    merging blocks, where a program has place for all clusters."""
    from multipole_lab.kernels.by_query.choose import fits

    number = method._partition.number(max(1, k.shape[2]))
    return not graded(q, k, v) and not (causal and method._merged) and fits(q, v, number)


def in_runs(method: MuSe, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> bool:
    """Whether the clusters are runs of one length in every block, for which there are kernels of their own."""
    from multipole_lab.kernels.runs.muse import fits

    positions = block_sizes(q.shape[2], method.leaf)[0] if causal else min(q.shape[2], k.shape[2])
    return (
        method.partition == "runs"
        and not method._one_by_one
        and method.order == "monopole"
        and method.clusters != "auto"
        and max(method.clusters, method.query_clusters or 0) <= positions
        and not (method.near and graded(q, k, v))
        and fits(q, v)
    )


@in_graphs
def full_runs(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: None) -> Partial:
    """The same as ``full`` where the clusters are runs."""
    from multipole_lab.kernels.runs.muse import runs_muse
    from multipole_lab.kernels.runs.tree import Tree

    tree = Tree.full(q.shape[2], k.shape[2], method.query_clusters or method.clusters, method.clusters)
    return runs_muse(q, k, v, tree, scale, min(method.near, method.clusters))


@in_graphs
def causal_runs(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: None) -> Partial:
    """The same as ``causal`` where the clusters are runs."""
    from multipole_lab.kernels.runs.muse import runs_muse
    from multipole_lab.kernels.runs.tree import Tree

    N = q.shape[2]
    block, levels = block_sizes(N, method.leaf)
    tree = Tree.causal_of(block, levels, method.query_clusters or method.clusters, method.clusters)
    q, k, v = _filled_up(q, k, v, block << levels)
    out, lse = runs_muse(q, k, v, tree, scale, min(method.near, method.clusters))
    return out[:, :, :N], lse[:, :, :N]


def _filled_up(q: Tensor, k: Tensor, v: Tensor, positions: int) -> list[Tensor]:
    """Zeros behind all real positions, so that only they see themselves."""
    extra = positions - q.shape[2]
    return [pad(x, (0, 0, 0, extra)) if extra else x for x in (q, k, v)]
