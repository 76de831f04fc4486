"""MuSe (2509.10406): keys expanded around the centroids of the query clusters, the nearest clusters exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from multipole_lab import renamed
from multipole_lab.attention.calls.backend import check_backend, use_triton
from multipole_lab.attention.calls.leaf import Leaf, check_leaf, settled_for
from multipole_lab.attention.clustered import attend_clustered, behind_sinks
from multipole_lab.attention.clusters.levels import level_labels, separate_labels
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.clusters.slots import Labels
from multipole_lab.attention.method import Method
from multipole_lab.attention.muse_computed import attend
from multipole_lab.attention.muse_formula import Expansion
from multipole_lab.attention.muse_kernels import choose_one_by_one
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.checks import check_count
from multipole_lab.suggesting import check_choice

ORDERS = ("monopole", "dipole")
LEVELS = ("separate", "merged")
NEAR_FOR = ("cluster", "query")
POINTS = ("own", "earlier")
# Clusters of the queries of a leaf, as a part of those of its keys: every block above has those of all its leaves.
FEWER = 4


@dataclass(frozen=True)
class MuSe(Method):
    """Multipole semantic attention.

    Queries and keys are clustered separately. Each query cluster sees every key cluster through a summary tilted
    towards it: the mass, the key centroid and the value centroid under the softmax weights of the query
    cluster's centroid. The ``near`` key clusters of largest mass are summed exactly instead. Time is O(N C D) for
    full attention and O(N C D log N) for causal; memory is linear in N.

    A position's result depends on all queries and keys that are clustered with its own, through the centroids: in full
    attention on every other query; in causal attention, beyond the leaf, also on later queries of its block, and
    through the length on where blocks begin, though never on later keys or values. By k-means that is no rounding: with
    other queries behind them results move by a quarter to all of the method's own squared error; by runs of positions
    they hardly do, in a model that was trained without them. A model that trains with runs learns to read the future
    there: after 2,000 steps on prose its loss rose by 0.35 when it was read with exact attention
    (``docs/guides/training.md``). Train with ``points="earlier"``.
    A sampler that reads its text again for every token meets other numbers there than teacher forcing.
    With ``points="earlier"`` it does not, if it fills the text up to the length that was trained: every token gets what
    the whole text gives it. A step with a cache is exact attention or the cache's own, and differs by the error.

    Padding must be named, on whichever side it is: with ``mask`` or ``lengths`` real positions get what the same call
    without the padding gives them, one call for each length in the batch; the host reads the mask, and waits for a GPU
    that makes it. Without them padding is text like any other. In full attention with as many queries as keys, queries
    beside a masked key are clustered apart from the others.

    On a GPU the second call of a shape without padding is kept as a CUDA graph, which the next ones replay;
    ``ml.without_graphs()`` leaves that out.

    Parameters
    ----------
    clusters : C, for the queries and for the keys, at most the number of keys; in causal attention of every block,
        where a block of fewer keys has as many clusters as keys.
        "auto" grows C with the square root of the block (see ``Partition.count``).
    cap : largest ratio of a cluster's size to the mean, at least 1 (k-means only). None for no cap: faster with the
        kernels, whose memory does not depend on it; in torch memory then grows with the largest cluster.
    iterations : Lloyd iterations (k-means only).
    order : "monopole", or "dipole" to correct the value centroid by ``s M (q - p)``.
    dipole_rank : the dipole is kept along that many principal directions of each query cluster; None for all.
    near : key clusters that each query cluster sums exactly, those of largest mass at its centroid.
    near_for : whom the near clusters are chosen for. "cluster": all queries of a cluster. "query": every query chooses
        those of largest mass at itself, which finds a key that few queries look for: as many operations, and on the
        hardest layers of a language model less than half the error. Without a dipole. The kernels have it without a
        gradient, separate levels and up to 256 clusters (of heads of 64 in half precision); torch computes the others,
        on a GPU, too.
    points : where the blocks of causal attention expand their keys. "own": around the means of the clusters of those
        queries that ask, the later ones of a block among them, as in the paper. "earlier": around those of the queries
        of the block that is asked, all of which are earlier; each query joins the nearest. No later query changes a
        result then, at two to five times the error on the layers of the sample, and forty times in a layer where it was
        small; keys before the first query of a call are exact. Not with merged levels; a dipole has all its directions
        then, and torch computes it, on a GPU, too.
    leaf : causal blocks of at most this many positions are exact. "auto": 1,024, and more where the device attends to
        a block faster than MuSe does: on a GPU of compute capability 9.0 and up, in half precision and with heads up to
        128 in size, 4,096, or 2,048 of runs. Shorter texts are exact as a whole.
    sinks : leading keys that every query sees exactly, outside all clusters.
    partition : "kmeans", "balanced" (equal sizes by principal axes), "runs" (of consecutive positions).
    seed : of the clustering.
    backend : "auto", "torch" or "triton".
    query_clusters : clusters of the queries, at most as many as queries are made. None for as many as of the keys, and
        for a quarter of that in every leaf where ``levels`` are merged.
    levels : where the clusters of causal blocks come from. "separate": found in every block of every level, as in the
        paper. "merged" (k-means with a number of clusters): from the leaves. Queries keep the clusters of their leaf at
        every level; those of the keys merge, one of the left half of a block with one of its right half, so that every
        block has C. That is faster, mostly with a larger error.

    Raises
    ------
    ValueError, TypeError : on creation, for a value outside these; on a call, for clusters above the number of keys.

    References
    ----------
    MuSe, arXiv 2509.10406, sections 3 (clusters, monopole, dipole) and 4 (causal blocks).
    """

    clusters: int | Literal["auto"] = 64
    cap: float | None = 1.5
    iterations: int = 1
    order: Literal["monopole", "dipole"] = "monopole"
    dipole_rank: int | None = 8
    near: int = 0
    leaf: Leaf = "auto"
    sinks: int = 0
    partition: Literal["kmeans", "balanced", "runs"] = "kmeans"
    seed: int = 0
    backend: Literal["auto", "torch", "triton"] = "auto"
    query_clusters: int | None = None
    levels: Literal["separate", "merged"] = "separate"
    near_for: Literal["cluster", "query"] = "cluster"
    points: Literal["own", "earlier"] = "own"

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition", renamed.value("partition", self.partition))
        check_count("near", self.near, 0)
        _ = self._partition  # checks its own fields
        if self.query_clusters is not None:
            check_count("query_clusters", self.query_clusters, 1)
        check_choice("order", self.order, ORDERS)
        check_choice("levels", self.levels, LEVELS)
        check_choice("near_for", self.near_for, NEAR_FOR)
        check_choice("points", self.points, POINTS)
        if self.near_for == "query" and self.order == "dipole":
            raise ValueError("near_for is 'query' with order 'dipole'; it needs a monopole")
        if self.points == "earlier" and self.levels == "merged":
            raise ValueError("points is 'earlier' with levels 'merged'; it needs separate levels")
        if self.points == "earlier" and self.order == "dipole" and self.backend == "triton":
            raise ValueError(
                "points is 'earlier' with order 'dipole' and backend 'triton', whose kernels have a monopole then; "
                "allowed are 'auto' and 'torch'"
            )
        if self.points == "earlier" and self.order == "dipole" and self.dipole_rank is not None:
            raise ValueError(
                f"points is 'earlier' with a dipole and dipole_rank {self.dipole_rank}: the directions of a cluster "
                "follow its later queries; dipole_rank=None is needed, for all directions"
            )
        if self.dipole_rank is not None:
            check_count("dipole_rank", self.dipole_rank, 1)
        check_leaf(self.leaf)
        check_count("sinks", self.sinks, 0)
        check_backend(self.backend)

    @property
    def _partition(self) -> Partition:
        return Partition(self.partition, self.clusters, self.cap, self.iterations, self.seed, self.near)

    @property
    def _query_partition(self) -> Partition:
        return replace(self._partition, clusters=self.query_clusters or self.clusters)

    @property
    def _merged(self) -> bool:
        """Whether causal blocks take their clusters from the leaves."""
        return self.levels == "merged" and self.partition == "kmeans" and self.clusters != "auto"

    @property
    def _leaf_query_partition(self) -> Partition:
        """Of the queries of every leaf, where the clusters of causal blocks come from the leaves."""
        return replace(self._partition, clusters=self.query_clusters or max(1, self.clusters // FEWER))

    def _level_labels(
        self, q: Tensor, k: Tensor, mask: Tensor | None, block: int, levels: int
    ) -> Sequence[tuple[Labels, Labels]]:
        """The clusters of all queries and keys at every level of causal blocks, of points of their own."""
        if self.points == "earlier":
            raise ValueError(
                "points is 'earlier'; what shows the clusters of causal blocks needs points='own'"
            )
        if self._merged:
            return level_labels(self._leaf_query_partition, self._partition, q, k, mask, block, levels)
        return separate_labels(self._query_partition, self._partition, q, k, mask, block, levels)

    def _rank(self, head_size: int) -> int:
        """Directions that the dipole is kept along; 0 for none."""
        return 0 if self.order == "monopole" else min(self.dipole_rank or head_size, head_size)

    def _expansion(self, scale: float, head_size: int) -> Expansion:
        return Expansion(scale, self.near, self._rank(head_size), self.near_for == "query")

    @property
    def _one_by_one(self) -> bool:
        """Whether every query chooses near clusters for itself."""
        return self.near_for == "query" and self.near > 0

    def _by_kernels(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> bool:
        """Whether the expansions are those of the kernels, which have no dipole around earlier points."""
        dipole_around_earlier = causal and self.points == "earlier" and self.order == "dipole"
        if dipole_around_earlier or not use_triton(self.backend, q, v):
            return False
        if not self._one_by_one or choose_one_by_one(self, q, k, v, causal):
            return True
        if self.backend == "auto":
            return False
        raise ValueError(
            "near_for is 'query' with backend 'triton', whose kernels then have no gradient, no merged levels, and up "
            "to 256 clusters of heads of 64 in half precision; allowed beyond is backend 'auto', which takes torch"
        )

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return attend_clustered(self, q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        method = settled_for(self, q, v)
        return attend_clustered(method, q, k, v, scale, mask, causal=True)

    def _over_all(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._over(False, q, k, v, scale, mask)

    def _over_past(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._over(True, q, k, v, scale, mask)

    def _over(self, causal: bool, q, k, v, scale, mask) -> Partial:
        by_kernels = self._by_kernels(q, k, v, causal)
        return behind_sinks(partial(attend, self, causal), self, q, k, v, scale, mask, causal, by_kernels)
