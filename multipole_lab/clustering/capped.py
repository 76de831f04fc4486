"""Capped assignment: every vector to its nearest cluster that is not full."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.distances import nearest, partial_distances, smallest


def capacity(vectors: int, clusters: int, cap: float) -> int:
    """The largest allowed cluster size: ``ceil(cap * vectors / clusters)``."""
    return math.ceil(cap * vectors / clusters)


def capped_assignment(
    x: Float[Tensor, "R N D"],
    centroids: Float[Tensor, "R C D"],
    cap: float,
    valid: Bool[Tensor, "R N"] | None = None,
) -> Int[Tensor, "R N"]:
    """Labels in 0 .. C-1 with at most ``capacity(n, C, cap)`` members each, n the valid vectors of the row.

    Rounds. Every vector without a place proposes to its nearest cluster that is not full (ties to the lower index);
    every cluster takes the nearest of its proposers while it is not full (ties to the lower position); the others
    propose again. A round that leaves someone over has filled a cluster, so at most C rounds are needed; on
    real keys three to six are.
    """
    R, N, D = x.shape
    C = centroids.shape[1]
    labels, distances = nearest(x, centroids)
    distances = (distances + torch.linalg.vector_norm(x, dim=-1).square()).view(-1)
    bins = (labels + torch.arange(R, device=x.device)[:, None] * C).view(-1)  # row * C + cluster
    if valid is None:
        free = torch.full((R * C,), capacity(N, C, cap), device=x.device)
        waiting = torch.arange(R * N, device=x.device)
    else:
        sizes = [capacity(n, C, cap) for n in valid.sum(-1).tolist()]
        free = torch.tensor(sizes, device=x.device).repeat_interleave(C)
        waiting = valid.reshape(-1).nonzero().squeeze(1)

    asked, distance = bins[waiting], distances[waiting]
    while True:
        proposals = torch.bincount(asked, minlength=R * C)
        contested = (proposals > free)[asked].nonzero().squeeze(1)
        if contested.numel() == 0:
            return bins.view(R, N) - torch.arange(R, device=x.device)[:, None] * C
        refused = contested[beyond_free(asked[contested], distance[contested], free)]
        free = (free - proposals).clamp(min=0)
        waiting = waiting[refused]
        asked, distance = next_choice(x, centroids, waiting, free)
        bins[waiting] = asked


def beyond_free(
    asked: Int[Tensor, " n"], distance: Float[Tensor, " n"], free: Int[Tensor, " RC"]
) -> Int[Tensor, " m"]:
    """Which of n proposals are not among the nearest ``free`` of the cluster they asked, in ascending order."""
    # A distance is not negative, so its float32 bits order as an integer does: with the cluster above them, one
    # stable sort ranks every proposal in its cluster.
    # A NaN, of distances that overflowed, counts as the farthest: its sign bit would break the order.
    distance = distance.clamp(min=0).nan_to_num(nan=math.inf)
    bits = distance.to(torch.float32).view(torch.int32).to(torch.int64)
    ranked = torch.sort((asked << 32) | bits, stable=True).indices
    cluster = asked[ranked]
    starts = torch.bincount(asked, minlength=free.numel()).cumsum(0)
    starts = torch.nn.functional.pad(starts, (1, 0))
    rank = torch.arange(asked.numel(), device=asked.device) - starts[cluster]
    return ranked[rank >= free[cluster]].sort().values


def next_choice(
    x: Float[Tensor, "R N D"],
    centroids: Float[Tensor, "R C D"],
    waiting: Int[Tensor, " n"],
    free: Int[Tensor, " RC"],
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The nearest cluster that is not full, as ``row * C + cluster``, and the squared distance to it."""
    R, N, D = x.shape
    C = centroids.shape[1]
    row = waiting // N
    # Those who wait are few and unequally many a row: lay them out in slots, one product for all rows.
    count = torch.bincount(row, minlength=R)
    slot = torch.arange(waiting.numel(), device=x.device) - (count.cumsum(0) - count)[row]
    padded = x.new_zeros(R, int(count.max()), D)
    padded[row, slot] = x[row, waiting - row * N]
    distances = partial_distances(padded, centroids).add_(padded.square().sum(-1, keepdim=True))
    # A full cluster alone is infinitely far, whatever overflowed.
    distances = distances.nan_to_num_(nan=math.inf).clamp_(max=torch.finfo(x.dtype).max)
    distances.masked_fill_((free == 0).view(R, 1, C), math.inf)
    best, distance = (each[row, slot] for each in smallest(distances))
    return row * C + best, distance
