"""Expansion points that no later query moves: the means of the clusters of an earlier block's queries."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.clusters.slots import Labels, to_slots
from multipole_lab.attention.expansion import expansion_points
from multipole_lab.clustering.clusters import statistics_dtype


def from_earlier(
    partition: Partition, earlier: Float[Tensor, "B H n D"], q: Float[Tensor, "B H Nq D"]
) -> tuple[Labels, Float[Tensor, "B H C D"]]:
    """The labels of the queries, each in the cluster of earlier ones whose mean is nearest, and those means.

    A query's label depends on no other one of q, so a cluster may get any number of them. Gradients flow through the
    means to the earlier queries; the labels are constants.
    """
    slots = partition.slots(earlier)
    every = torch.ones(earlier.shape[:3], dtype=torch.bool, device=q.device)
    members = to_slots(earlier.to(statistics_dtype(q.dtype)), slots, every)
    points = expansion_points(members.flatten(0, 1), slots.filled.flatten(0, 1)).unflatten(0, q.shape[:2])
    means = points.detach()
    # |q - p|^2 without |q|^2, which is the same for all.
    distance = means.square().sum(-1).unsqueeze(-2) - 2 * q.detach().to(means.dtype) @ means.mT
    distance = distance.masked_fill(~slots.filled.any(-1).unsqueeze(-2), torch.inf)
    return Labels(distance.argmin(-1), points.shape[2], None), points


def join_earlier(
    partition: Partition, earlier: Float[Tensor, "B H n D"], q: Float[Tensor, "B H Nq D"]
) -> tuple[Tensor, ...]:
    """The same clusters by the Triton kernels: no value reaches the host, and nothing has a gradient.

    Labels, counts, order and offsets of the earlier queries, as ``Clusters`` has them; then order and offsets of q.
    """
    from multipole_lab.kernels.clustering.assign import assign
    from multipole_lab.kernels.clustering.sort import sort_by_label

    found = partition.on_device(earlier)
    counts, number = found.counts, found.counts.shape[-1]
    # An empty cluster has no mean that could be joined: the largest stands in for it.
    every = torch.arange(number, device=q.device)
    joined = torch.where(counts > 0, every, counts.argmax(-1, keepdim=True))
    means = found.centroids.take_along_dim(joined.unsqueeze(-1), 2)
    labels = joined.take_along_dim(assign(q.detach(), means)[0], 2)
    return found.labels, counts, found.order, found.offsets, *sort_by_label(labels, number)[:2]
