"""How a method partitions queries or keys: the one place that turns its fields into clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.attention.clusters.slots import Labels, Slots
from multipole_lab.clustering.balanced import balanced_labels
from multipole_lab.clustering.capped import capacity
from multipole_lab.clustering.checks import check_cap, check_count, check_seed
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.clustering.kmeans import kmeans_labels
from multipole_lab.clustering.runs import run_labels
from multipole_lab.clustering.seeding import seed_centroids, start_places
from multipole_lab.suggesting import check_choice

PARTITIONS = ("kmeans", "balanced", "runs")


@dataclass(frozen=True)
class Partition:
    """A kind of partition and its parameters, checked on creation; see ``MuSe`` for what they mean."""

    kind: str = "kmeans"
    clusters: int | str = 64
    cap: float | None = 1.5
    iterations: int = 1
    seed: int = 0
    near: int = 0

    def __post_init__(self) -> None:
        check_choice("partition", self.kind, PARTITIONS)
        if isinstance(self.clusters, str):
            if self.clusters != "auto":
                raise ValueError(f"clusters is {self.clusters!r}; an integer or 'auto' is needed")
        else:
            check_count("clusters", self.clusters, 1)
        check_cap(self.cap)
        check_count("iterations", self.iterations, 0)
        check_seed(self.seed)

    def check_fits(self, keys: int) -> None:
        """Refuse more clusters than keys."""
        if self.clusters != "auto" and self.clusters > keys:
            raise ValueError(f"clusters is {self.clusters}; at most the number of keys, {keys}, is allowed")

    def count(self, vectors: int) -> int:
        """Clusters for that many vectors.

        For "auto", the cost of one query in multiply-adds per head dimension is about ``4 C`` for making its
        share of the summaries and evaluating them, and ``2 cap near N / C`` for the near field. It is least at
        ``C = sqrt(cap near N / 2)``; C is the power of two nearest to that, with near at least 4, and at least 16.
        """
        if self.clusters != "auto":
            return min(self.clusters, vectors)
        best = ((self.cap or 1.0) * max(self.near, 4) * vectors / 2) ** 0.5
        return min(vectors, max(16, 1 << round(math.log2(best))))

    def labels(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The cluster of every vector of x [B, H, N, D]; -1 for padding."""
        return _labels(
            x.detach(), mask, self.kind, self.size(x.shape[2]), self.count(x.shape[2]), self.iterations,
            self.cap, self.seed,
        )  # fmt: skip

    def clusters_of(self, x: Tensor, mask: Tensor | None = None) -> Clusters:
        """The partition of x [B, H, N, D] as Clusters."""
        return Clusters.from_labels(x, self.labels(x, mask), self.number(x.shape[2]))

    def on_device(self, x: Tensor, mask: Tensor | None = None) -> Clusters:
        """The partition by the Triton kernels: no value of x reaches the host."""
        return Clusters(*self._by_kernels(x, mask, True))

    def of_leaves_on_device(self, x: Tensor) -> Clusters:
        """The same where there are many short rows, x [B, H, n, D]: a program for each, where it can hold them."""
        from multipole_lab.kernels.clustering import short
        from multipole_lab.kernels.clustering.seeds import seeds_at

        x, n = x.detach(), x.shape[2]
        if self.kind != "kmeans" or not short.fits(x, self.count(n)):
            return self.on_device(x)
        seeds = seeds_at(x, start_places(n, self.count(n), "random", self.seed, x.device))
        return Clusters(*short.short_kmeans(x, seeds, self.iterations, self.cap))

    def sort_on_device(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The order and the offsets of `on_device`, for those who need no centroids."""
        return self._by_kernels(x, mask, False)[3:]

    def _by_kernels(self, x: Tensor, mask: Tensor | None, means: bool) -> tuple[Tensor | None, ...]:
        from multipole_lab.kernels.clustering.centroids import cluster_means
        from multipole_lab.kernels.clustering.kmeans import kmeans
        from multipole_lab.kernels.clustering.seeds import seeds_at
        from multipole_lab.kernels.clustering.sort import sort_by_label

        x = x.detach()
        B, H, N, D = x.shape
        if self.kind == "kmeans":
            if mask is None:
                seeds = seeds_at(x, start_places(N, self.count(N), "random", self.seed, x.device))
            else:
                rows, valid = x.reshape(B * H, N, D), mask.repeat_interleave(H, dim=0)
                seeds = seed_centroids(rows, self.count(N), "random", self.seed, valid).view(B, H, -1, D)
            return kmeans(x, seeds, self.iterations, self.cap, mask, means)
        labels = self.labels(x, mask)
        order, offsets, counts = sort_by_label(labels, self.number(N))
        return labels, cluster_means(x, order, offsets) if means else None, counts, order, offsets

    def found(self, x: Tensor, mask: Tensor | None = None) -> Labels:
        """The partition of x [B, H, N, D], with what is known about it without a look at the labels."""
        return Labels(self.labels(x, mask), self.number(x.shape[2]), self.largest(x.shape[2]))

    def slots(self, x: Tensor, mask: Tensor | None = None) -> Slots:
        """The partition of x [B, H, N, D] laid out in slots."""
        return Slots.laid_out(self.found(x, mask))

    def number(self, vectors: int) -> int:
        """How many clusters that many vectors really get: equal blocks may need fewer than asked for."""
        return self.count(vectors) if self.kind == "kmeans" else -(-vectors // self.size(vectors))

    def largest(self, vectors: int) -> int | None:
        """``size`` where something bounds it; None where only the labels say it, without a cap."""
        return None if self.kind == "kmeans" and self.cap is None else self.size(vectors)

    def size(self, vectors: int) -> int:
        """The largest number of members a cluster of that many vectors can have, known without looking at them."""
        count = self.count(vectors)
        if self.kind == "kmeans":
            return vectors if self.cap is None else min(vectors, capacity(vectors, count, self.cap))
        even = -(-vectors // count)
        return even if self.kind == "runs" else 1 << (even - 1).bit_length()


@torch.library.custom_op("multipole_lab::labels", mutates_args=())
def _labels(
    x: Tensor,
    mask: Tensor | None,
    kind: str,
    size: int,
    clusters: int,
    iterations: int,
    cap: float | None,
    seed: int,
) -> Tensor:
    """A partition as one opaque operator, for k-means looks at its data while it works."""
    if kind == "kmeans":
        return kmeans_labels(x, clusters, iterations, cap, seed, mask=mask)
    labels = run_labels(x, size, mask) if kind == "runs" else balanced_labels(x, size, mask=mask)
    return labels.contiguous()  # what the fake below says, whatever the partition left behind


@_labels.register_fake
def _(x, mask, kind, size, clusters, iterations, cap, seed):
    return x.new_empty(x.shape[:3], dtype=torch.int64)
