"""The result of every partition: which vector is in which cluster, and where to find a cluster's members."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.printing import count


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

    def __repr__(self) -> str:
        B, H, C = self.counts.shape
        heads = count(H, "head") if B == 1 else f"{B} x {count(H, 'head')}"
        members = ""
        if type(self.counts) is Tensor and not self.counts.is_meta:  # numbers that can be looked at
            members = f", {self.counts.min():,} to {self.counts.max():,} members"
        return (
            f"Clusters({count(C, 'cluster')} of {count(self.labels.shape[-1], 'vector')} in {heads}{members})"
        )

    @property
    def size(self) -> int:
        """The number of clusters C, empty ones included."""
        return self.counts.shape[-1]

    @classmethod
    def from_labels(
        cls, x: Float[Tensor, "B H N D"], labels: Int[Tensor, "B H N"], clusters: int
    ) -> Clusters:
        """Sort the labels, count them and average the members of each cluster.

        ``labels`` lie in ``0 .. clusters - 1``, or are -1 for padding.
        """
        B, H, N, D = x.shape
        order, offsets = counting_sort(labels, clusters)
        counts = offsets.diff(dim=-1)
        centroids = member_mean(
            x.reshape(B * H, N, D), labels.reshape(B * H, N), counts.view(B * H, clusters)
        )
        return cls(labels, centroids.view(B, H, clusters, D), counts, order, offsets)


def counting_sort(
    labels: Int[Tensor, "*batch N"], clusters: int
) -> tuple[Int[Tensor, "*batch N"], Int[Tensor, "*batch C1"]]:
    """Positions by ascending label, padding last, and where each label's slice starts and ends."""
    bins = torch.where(labels < 0, clusters, labels).to(torch.int32)
    ascending, order = (x.contiguous() for x in bins.sort(dim=-1, stable=True))
    edges = torch.arange(clusters + 1, dtype=torch.int32, device=labels.device)
    offsets = torch.searchsorted(ascending, edges.expand(*labels.shape[:-1], clusters + 1).contiguous())
    return order, offsets


def member_sum(
    x: Float[Tensor, "R N D"], labels: Int[Tensor, "R N"], clusters: int
) -> Float[Tensor, "R C D"]:
    """Sum the vectors of each cluster, in float32 at least; vectors with label -1 are left out."""
    R, N, D = x.shape
    dtype = statistics_dtype(x.dtype)
    # One spare bin a row takes the padding, so that the sum needs no mask.
    bins = torch.where(labels < 0, clusters, labels) + torch.arange(R, device=x.device)[:, None] * (
        clusters + 1
    )
    sums = torch.zeros(R * (clusters + 1), D, dtype=dtype, device=x.device)
    sums = sums.index_add(0, bins.view(-1), x.reshape(-1, D).to(dtype))
    return sums.view(R, clusters + 1, D)[:, :clusters]


def member_mean(
    x: Float[Tensor, "R N D"], labels: Int[Tensor, "R N"], counts: Int[Tensor, "R C"]
) -> Float[Tensor, "R C D"]:
    """The mean of each cluster's members; zero for an empty cluster."""
    sums = member_sum(x, labels, counts.shape[-1])
    return sums / counts.clamp(min=1).unsqueeze(-1)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays; everything else is summed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
