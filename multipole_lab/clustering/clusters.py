"""The result of every partition: which vector is in which cluster, and where to find a cluster's members."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Clusters:
    """A partition of the N vectors of every batch entry and head into C clusters.

    The members of cluster j of one head are ``order[offsets[j] : offsets[j + 1]]``, in ascending position:
    a counting sort of the labels, so that any per-cluster sum is a sum over one contiguous slice.

    Attributes
    ----------
    labels : [B, H, N] int64. The cluster of each vector; -1 for padding, which belongs to none.
    centroids : [B, H, C, D] float32 (float64 for float64 input). The mean of each cluster's members.
    counts : [B, H, C] int64. Members of each cluster.
    order : [B, H, N] int64. Positions sorted by label; padding comes last.
    offsets : [B, H, C + 1] int64. Where each cluster's slice of ``order`` starts and ends.
    """

    labels: Int[Tensor, "B H N"]
    centroids: Float[Tensor, "B H C D"]
    counts: Int[Tensor, "B H C"]
    order: Int[Tensor, "B H N"]
    offsets: Int[Tensor, "B H C1"]

    @property
    def size(self) -> int:
        """The number of clusters C, empty ones included."""
        return self.counts.shape[-1]
