"""Lloyd's k-means, batched over batch and heads, with capped cluster sizes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.capped import capped_assignment
from multipole_lab.clustering.checks import check_clustering
from multipole_lab.clustering.clusters import Clusters, member_sum, statistics_dtype
from multipole_lab.clustering.distances import nearest
from multipole_lab.clustering.seeding import seed_centroids
from multipole_lab.suggesting import suggesting


@suggesting
def kmeans(
    x: Float[Tensor, "B H N D"],
    clusters: int = 64,
    iterations: int = 1,
    cap: float | None = None,
    seed: int = 0,
    init: str | Float[Tensor, "B H C D"] = "random",
    mask: Bool[Tensor, "B N"] | None = None,
) -> Clusters:
    """Cluster the N vectors of every batch entry and head.

    Lloyd's algorithm: ``iterations`` times assign every vector to its nearest centroid and move every centroid
    to the mean of its vectors; then assign once more, this time with no cluster above
    ``ceil(cap * N / clusters)`` members.

    Parameters
    ----------
    x : [B, H, N, D] keys or queries; any floating dtype, distances in float32 (float64 for float64).
        Non-finite numbers count as zero.
    clusters : C, at most the number of valid vectors.
    iterations : Lloyd iterations; 0 assigns to the seeds.
    cap : the largest allowed ratio of a cluster's size to the mean size, at least 1; None for no limit. An
        overflowing vector goes to its nearest cluster that is not full.
    seed : seeds the choice of starting points; the same seed gives the same clusters.
    init : "random" (distinct random vectors), "strided" (every N/C-th vector, no randomness), "k-means++", or
        the starting centroids themselves.
    mask : [B, N], False for padding, which gets the label -1.

    Returns
    -------
    Clusters, with ``centroids`` the means of the final members.

    Raises
    ------
    ValueError, TypeError : wrong rank, integer tensors, an empty sequence, clusters below 1 or above the number
        of vectors, cap below 1, negative iterations, an unknown init.

    Notes
    -----
    An empty cluster restarts at the vector farthest from its centroid, as in scikit-learn. Multipole Attention
    (2506.13059, section 3) clusters keys; MuSe (2509.10406, section 3) clusters queries and keys.
    """
    labels = kmeans_labels(x, clusters, iterations, cap, seed, init, mask)
    return Clusters.from_labels(x, labels, clusters)


def kmeans_labels(
    x: Float[Tensor, "B H N D"],
    clusters: int,
    iterations: int = 1,
    cap: float | None = None,
    seed: int = 0,
    init: str | Float[Tensor, "B H C D"] = "random",
    mask: Bool[Tensor, "B N"] | None = None,
) -> Int[Tensor, "B H N"]:
    """The labels alone of ``kmeans``, of the same arguments."""
    check_clustering(x, clusters=clusters, iterations=iterations, cap=cap, seed=seed, mask=mask)
    B, H, N, D = x.shape
    rows = x.reshape(B * H, N, D).to(statistics_dtype(x.dtype)).contiguous()
    if not rows.sum().isfinite():  # a look costs less than a copy
        rows = torch.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    valid = None if mask is None else mask.repeat_interleave(H, dim=0)
    centroids = seed_centroids(rows, clusters, init, seed, valid)
    for _ in range(iterations):
        centroids = lloyd_step(rows, centroids, valid)
    if cap is None:
        labels, _ = nearest(rows, centroids)
    else:
        labels = capped_assignment(rows, centroids, cap, valid)
    if valid is not None:
        labels = labels.masked_fill(~valid, -1)
    return labels.view(B, H, N)


def lloyd_step(
    x: Float[Tensor, "R N D"], centroids: Float[Tensor, "R C D"], valid: Bool[Tensor, "R N"] | None
) -> Float[Tensor, "R C D"]:
    """Assign every vector to its nearest centroid; return the means, with empty clusters restarted."""
    R, C, _ = centroids.shape
    labels, distances = nearest(x, centroids)
    if valid is not None:
        labels = labels.masked_fill(~valid, -1)
    sums = member_sum(x, labels, C)
    counts = count_members(labels, C)
    if (counts == 0).any():
        distances = distances + x.square().sum(-1)
        if valid is not None:
            distances = distances.masked_fill(~valid, -math.inf)
        sums, counts = restart_empty(x, labels, distances, sums, counts)
    return sums / counts.clamp(min=1).unsqueeze(-1)


def count_members(labels: Int[Tensor, "R N"], clusters: int) -> Int[Tensor, "R C"]:
    """How many vectors carry each label; -1 is not counted."""
    R = labels.shape[0]
    row = torch.arange(R, device=labels.device).unsqueeze(-1) * (clusters + 1)
    bins = labels + 1 + row  # padding falls into the first bin of its row
    return torch.bincount(bins.view(-1), minlength=R * (clusters + 1)).view(R, clusters + 1)[:, 1:]


def restart_empty(x, labels, distances, sums, counts):
    """Give the e-th empty cluster of a row the row's e-th farthest vector, and take it from its old cluster."""
    empty = counts == 0
    wanted = min(int(empty.sum(-1).max()), x.shape[1])
    farthest = distances.topk(wanted, dim=-1).indices  # [R, E]
    rank = empty.cumsum(-1) - 1
    row, cluster = torch.nonzero(empty & (rank < wanted), as_tuple=True)
    point = farthest[row, rank[row, cluster]]
    old = labels[row, point]
    keep = old >= 0  # a row with more empty clusters than vectors leaves the rest empty
    row, cluster, point, old = row[keep], cluster[keep], point[keep], old[keep]
    vectors = x[row, point]
    sums = sums.clone()
    counts = counts.clone()
    sums.index_put_((row, old), -vectors, accumulate=True)
    counts.index_put_((row, old), torch.full_like(row, -1), accumulate=True)
    sums[row, cluster] = vectors
    counts[row, cluster] = 1
    return sums, counts
