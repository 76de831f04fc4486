"""The clusters of causal blocks, found once in the leaves: keys merge level by level, queries stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.clusters.slots import Labels
from multipole_lab.clustering.merging import merged_labels

if TYPE_CHECKING:
    from multipole_lab.attention.clusters.partition import Partition


def level_labels(
    of_queries: Partition,
    of_keys: Partition,
    q: Float[Tensor, "B Hq N D"],
    k: Float[Tensor, "B Hk N D"],
    mask: Bool[Tensor, "B N"] | None,
    block: int,
    levels: int,
) -> Sequence[tuple[Labels, Labels]]:
    """For every level of blocks, from those of ``block`` positions up, the labels of all queries and of all keys.

    Both are k-means in every leaf. A larger block has the query clusters of all its leaves, so a query is expanded
    around one point at every level, and as many key clusters as one leaf has.
    """
    C, Cq = of_keys.number(block), of_queries.number(block)
    q_labels, k_labels = leaf_labels(of_queries, q, None, block), leaf_labels(of_keys, k, mask, block)
    merged = _merged(k.detach(), k_labels, C, block)
    leaf = torch.arange(q.shape[2], device=q.device) // block
    largest = of_keys.largest(block)
    return [
        (
            Labels(q_labels + leaf % (1 << level) * Cq, Cq << level, of_queries.largest(block)),
            Labels(merged[level], C, None if largest is None else largest << level),
        )
        for level in range(levels)
    ]


def separate_labels(
    of_queries: Partition,
    of_keys: Partition,
    q: Float[Tensor, "B Hq N D"],
    k: Float[Tensor, "B Hk N D"],
    mask: Bool[Tensor, "B N"] | None,
    block: int,
    levels: int,
) -> Sequence[tuple[Labels, Labels]]:
    """The same where every block of every level is clustered for itself."""

    def found(partition: Partition, x: Tensor, mask: Tensor | None, size: int) -> Labels:
        labels = leaf_labels(partition, x, mask, size)
        return Labels(labels, partition.number(size), partition.largest(size))

    sizes = (block << level for level in range(levels))
    return [(found(of_queries, q, None, size), found(of_keys, k, mask, size)) for size in sizes]


def leaf_labels(
    partition: Partition, x: Float[Tensor, "B H N D"], mask: Bool[Tensor, "B N"] | None, block: int
) -> Int[Tensor, "B H N"]:
    """The clusters within every block of positions; -1 for padding."""
    B, H, N, D = x.shape
    blocks = x.reshape(B, H * (N // block), block, D)
    if mask is None:
        return partition.labels(blocks).view(B, H, N)
    # Every block is a batch entry here, for a mask is one of batch entries.
    of_blocks = x.unflatten(2, (-1, block)).transpose(1, 2).flatten(0, 1)
    labels = partition.labels(of_blocks, mask.reshape(-1, block))
    return labels.unflatten(0, (B, -1)).transpose(1, 2).reshape(B, H, N)


@torch.library.custom_op("multipole_lab::merged_labels", mutates_args=())
def _merged(k: Tensor, leaves: Tensor, clusters: int, block: int) -> Tensor:
    """``merged_labels`` of heads as one opaque operator, for it looks at its data while it works: [levels, B, H, N]."""
    rows, labels = k.flatten(0, 1), leaves.flatten(0, 1)
    return merged_labels(rows, labels, clusters, block).unflatten(1, k.shape[:2]).contiguous()


@_merged.register_fake
def _(k, leaves, clusters, block):
    levels = (k.shape[2] // block - 1).bit_length()
    return leaves.new_empty(levels, *leaves.shape)
