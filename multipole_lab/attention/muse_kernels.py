"""MuSe by the Triton kernels: what they are given; ``muse.implementation`` chooses. The host sees no value of q or k.

Kernels are imported only where they run.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.causal import block_sizes
from multipole_lab.attention.clusters.slots import Slots, to_slots
from multipole_lab.attention.expansion import principal_directions
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import Clusters, statistics_dtype

if TYPE_CHECKING:
    from multipole_lab.attention.muse import MuSe


def full(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
    """Every query over every key that is no padding."""
    from multipole_lab.kernels.common.branches import in_branches
    from multipole_lab.kernels.muse.forward import muse

    of_queries, of_keys = method._query_partition, method._partition
    q_clusters, k_clusters = in_branches(
        [lambda: of_queries.on_device(q), lambda: of_keys.on_device(k, mask)]
    )
    basis = None
    rank = method._rank(q.shape[-1])
    if 0 < rank < q.shape[-1]:
        if method.cap is None:
            raise ValueError(
                f"cap is None with dipole_rank {rank}: the principal directions are found in slots, which need a "
                "cap; give one, or dipole_rank=None for all directions"
            )
        basis = _directions(q, q_clusters, of_queries.size(q.shape[2]), rank)
    return muse(
        q, k, v, q_clusters.centroids, q_clusters.order, q_clusters.offsets, k_clusters.order, k_clusters.offsets,
        scale, min(method.near, k_clusters.size), method.order, basis, padded=False,
    )  # fmt: skip


def causal(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: None) -> Partial:
    """All causal blocks in one pass, without padding and with a monopole."""
    from multipole_lab.kernels.common.branches import in_branches
    from multipole_lab.kernels.muse.causal import causal_leaves, muse_causal

    heads, N = q.shape[:2], q.shape[2]
    block, levels = block_sizes(N, method.leaf)
    # Batch entries become heads here, once for all that follows.
    q, k, v = (x.flatten(0, 1)[None] for x in _filled_up(q, k, v, block << levels))
    leaves, *clusters = in_branches(
        [
            partial(causal_leaves, q, k, v, block, scale),
            *(partial(_level_clusters, method, q, k, block << level) for level in range(levels)),
        ]
    )
    out, lse = muse_causal(q, k, v, clusters, block, scale, method.near, leaves)
    return out[0, :, :N].unflatten(0, heads), lse[0, :, :N].unflatten(0, heads)


def _level_clusters(method: MuSe, q: Tensor, k: Tensor, size: int) -> tuple[Tensor, ...]:
    """The clusters of all pairs of blocks of a size, as ``muse_causal`` takes them."""
    from multipole_lab.kernels.common.branches import in_branches
    from multipole_lab.kernels.muse.causal import level_blocks

    qs, ks = level_blocks(q.detach(), k.detach(), size)
    of_queries, of_keys = method._query_partition, method._partition
    a, b = in_branches([lambda: of_queries.on_device(qs), lambda: of_keys.on_device(ks)])
    return a.centroids, a.order, a.offsets, b.order, b.offsets


def in_runs(method: MuSe, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> bool:
    """Whether the clusters are runs of one length in every block, for which there are kernels of their own."""
    from multipole_lab.kernels.runs.muse import fits

    positions = block_sizes(q.shape[2], method.leaf)[0] if causal else min(q.shape[2], k.shape[2])
    graded = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return (
        method.partition == "runs"
        and method.order == "monopole"
        and method.clusters != "auto"
        and max(method.clusters, method.query_clusters or 0) <= positions
        and not (method.near and graded)
        and fits(q, v)
    )


def full_runs(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: None) -> Partial:
    """The same as ``full`` where the clusters are runs."""
    from multipole_lab.kernels.runs.muse import runs_muse
    from multipole_lab.kernels.runs.tree import Tree

    tree = Tree.full(q.shape[2], k.shape[2], method.query_clusters or method.clusters, method.clusters)
    return runs_muse(q, k, v, tree, scale, min(method.near, method.clusters))


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


def _directions(q: Tensor, clusters: Clusters, size: int, rank: int) -> Tensor:
    """The principal directions of every query cluster, [B, Hq, C, D, r]; a gradient flows through them to q.

    The mean that they are measured from is a constant: displacements add up to zero, so it moves no covariance.
    """
    slots = Slots.of(clusters.labels, clusters.size, size)
    qs = to_slots(q.to(statistics_dtype(q.dtype)), slots, slots.slot >= 0)
    d = (qs - clusters.centroids.to(qs.dtype).unsqueeze(-2)) * slots.filled.unsqueeze(-1)
    return principal_directions(d, rank)
