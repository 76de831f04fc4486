"""Clusters of a block from those of its halves: each cluster of the left half joins one of the right half."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.clustering.capped import capped_assignment
from multipole_lab.clustering.clusters import member_mean, statistics_dtype
from multipole_lab.clustering.kmeans import count_members


def merged_labels(
    x: Float[Tensor, "R N D"], leaves: Int[Tensor, "R N"], clusters: int, block: int
) -> Int[Tensor, "levels R N"]:
    """The labels of every level of blocks, from those of blocks of ``block`` vectors up to half of all N.

    Level i has blocks of ``block * 2^i`` vectors with C clusters each, named after those of their first leaf. A cluster
    is one of the left half and one of the right half: the means of the right half's first leaf are assigned to those of
    the left one's, with room for one each. So with sizes capped in the leaves no cluster of any level is larger than
    that cap allows for its block. MuSe (2509.10406, section 4) clusters every block of every level for itself; here the
    vectors are looked at once.

    Parameters
    ----------
    x : N = block * 2^levels vectors, levels 1 or more.
    leaves : labels in 0 .. C - 1 of the vectors in their block; -1 for padding, in no cluster.
    """
    R, N, _ = x.shape
    means = _means(x, leaves, clusters, block)  # [R, blocks, C, D]
    found, labels = [leaves], leaves
    while 4 * block <= N:
        left, right = means.unflatten(1, (-1, 2)).unbind(2)
        partner = capped_assignment(right.flatten(0, 1), left.flatten(0, 1), cap=1).view(right.shape[:-1])
        of_left, of_right = labels.view(R, -1, 2, block).unbind(2)
        joined = partner.gather(-1, of_right.clamp(min=0)).where(of_right >= 0, -1)
        labels = torch.stack([of_left, joined], 2).view(R, N)
        found.append(labels)
        means, block = left, 2 * block
    return torch.stack(found)


def _means(
    x: Float[Tensor, "R N D"], labels: Int[Tensor, "R N"], clusters: int, block: int
) -> Float[Tensor, "R blocks C D"]:
    """The means of the clusters of every leaf."""
    rows = x.to(statistics_dtype(x.dtype)).reshape(-1, block, x.shape[-1])
    own = labels.reshape(-1, block)
    return member_mean(rows, own, count_members(own, clusters)).view(len(x), -1, clusters, x.shape[-1])
