"""How a method partitions queries or keys: the one place that turns its fields into clusters."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from multipole_lab.attention.slots import Slots
from multipole_lab.clustering import Clusters, balanced, kmeans, spatial
from multipole_lab.clustering.capped import capacity
from multipole_lab.clustering.checks import check_cap, check_count

PARTITIONS = ("kmeans", "balanced", "spatial")


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
        if self.kind not in PARTITIONS:
            raise ValueError(f"partition is {self.kind!r}; allowed are {', '.join(map(repr, PARTITIONS))}")
        if isinstance(self.clusters, str):
            if self.clusters != "auto":
                raise ValueError(f"clusters is {self.clusters!r}; an integer or 'auto' is needed")
        else:
            check_count("clusters", self.clusters, 1)
        check_cap(self.cap)
        check_count("iterations", self.iterations, 0)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed is {self.seed!r}; an integer is needed")

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

    def clusters_of(self, x: Tensor, mask: Tensor | None = None) -> Clusters:
        """Partition x [B, H, N, D]."""
        count = self.count(x.shape[2])
        if self.kind == "kmeans":
            return kmeans(x.detach(), count, self.iterations, self.cap, self.seed, mask=mask)
        if self.kind == "spatial":
            return spatial(x.detach(), -(-x.shape[2] // count), mask)
        return balanced(x.detach(), self.block(x.shape[2]), mask=mask)

    def block(self, vectors: int) -> int:
        """The largest number of slots a cluster of that many vectors can need; known without looking at them."""
        count = self.count(vectors)
        if self.kind == "kmeans":
            return vectors if self.cap is None else min(vectors, capacity(vectors, count, self.cap))
        even = -(-vectors // count)
        return even if self.kind == "spatial" else 1 << (even - 1).bit_length()

    def slots(self, x: Tensor, mask: Tensor | None = None) -> Slots:
        """Partition x and lay the clusters out in slots."""
        return Slots.of(self.clusters_of(x, mask), self.block(x.shape[2]))
