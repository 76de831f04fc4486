"""k-means on the device: Lloyd iterations and a capped last assignment, in a fixed number of launches."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.checks import check_tensors
from . import few
from .assign import assign, check_centroids
from .capped import capped_rounds
from .centroids import cluster_means, restart_empty
from .lloyd import fits, lloyd
from .sort import sort_by_label


def lloyd_iteration(x: Tensor, centroids: Tensor, valid: Tensor | None = None) -> Tensor:
    """Assign every vector to its nearest centroid; return the means, empty clusters restarted."""
    if fits(x, centroids.shape[2]):
        return lloyd(x, centroids, valid)[1]
    labels, distances = assign(x, centroids, valid)
    order, offsets, counts = sort_by_label(labels, centroids.shape[2])
    means = cluster_means(x, order, offsets)
    restart_empty(x, labels, distances, counts, means)
    return means


def capped_assign(x: Tensor, centroids: Tensor, cap: float, valid: Tensor | None = None) -> Tensor:
    """Labels with at most ceil(cap * n / C) members a cluster, n the valid vectors; -1 for padding."""
    B, H, N, _ = x.shape
    C = centroids.shape[2]
    labels, distances = assign(x, centroids, valid)
    order, offsets, _ = sort_by_label(labels, C)
    if valid is None:
        capacity = torch.full((B, H), math.ceil(cap * N / C), dtype=torch.int32, device=x.device)
    else:
        capacity = (cap * offsets[..., -1].double() / C).ceil().to(torch.int32)
    return capped_rounds(x, centroids, labels, distances, order, offsets, capacity)


def kmeans(
    x: Tensor,
    centroids: Tensor,
    iterations: int = 1,
    cap: float | None = None,
    valid: Tensor | None = None,
    means: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor]:
    """Cluster from given starting centroids: `iterations` of Lloyd, then a last assignment under `cap`.

    Parameters
    ----------
    x : [B, H, N, D] fp16, bf16 or fp32. centroids : [B, H, C, D] starting points.
    valid : [B, N] bool, False for padding.
    means : whether labels and means of the last assignment are wanted; None stands in their places otherwise.

    Returns
    -------
    labels, centroids, counts, order, offsets: the fields of `Clusters` in their order.

    Launches: 3 an iteration and 4 at the end where `lloyd.fits`, and under a cap where `few.fits` and nothing is
    padding; otherwise 7 and 6, and 6 more under a cap. Two more for every round of the whole device.
    Bytes and operations: the sums of `assign`, `sort_by_label`, `cluster_means` and `capped_rounds`, or of
    `capped_few`.
    """
    check_tensors("kmeans", x=x)
    check_centroids("kmeans", x, centroids)
    for _ in range(iterations):
        centroids = lloyd_iteration(x, centroids, valid)
    # Of padding the sort makes a permutation whatever the labels are: a padded batch of a clustered cache once read
    # outside of one on a GPU, for a reason that is not known.
    if cap is not None and valid is None and few.fits(x, centroids.shape[2]):
        return few.capped_few(x, centroids, cap, valid, means)
    if cap is None and fits(x, centroids.shape[2]):
        labels, *found = lloyd(x, centroids, valid, restart=False, sort=True, means=means)
        return labels if means else None, *found
    labels = assign(x, centroids, valid)[0] if cap is None else capped_assign(x, centroids, cap, valid)
    order, offsets, counts = sort_by_label(labels, centroids.shape[2])
    wanted = (labels, cluster_means(x, order, offsets)) if means else (None, None)
    return *wanted, counts, order, offsets
