"""MuSe (2509.10406): keys expanded around the centroids of the query clusters, the nearest clusters exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from multipole_lab import renamed
from multipole_lab.attention import muse_kernels as kernels
from multipole_lab.attention.calls.backend import check_backend, use_triton
from multipole_lab.attention.causal import block_sizes, causal_attention
from multipole_lab.attention.clustered import attend_clustered, behind_sinks
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.levels import level_labels, separate_labels
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.clusters.slots import Labels, Slots
from multipole_lab.attention.exact import exact_causal
from multipole_lab.attention.method import Method
from multipole_lab.attention.muse_formula import Expansion, muse_recomputed
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.checks import check_count
from multipole_lab.suggesting import check_choice

ORDERS = ("monopole", "dipole")
LEVELS = ("separate", "merged")
NEAR_FOR = ("cluster", "query")
# Clusters of the queries of a leaf, as a part of those of its keys: every block above has those of all its leaves.
FEWER = 4
# Of a method, q, k, v, the scale and a mask [B, Nk] or None.
Implementation = Callable[["MuSe", Tensor, Tensor, Tensor, float, Tensor | None], Partial]


@dataclass(frozen=True)
class MuSe(Method):
    """Multipole semantic attention.

    Queries and keys are clustered separately. Each query cluster sees every key cluster through a summary tilted
    towards it: the mass, the key centroid and the value centroid under the softmax weights of the query
    cluster's centroid. The ``near`` key clusters of largest mass are summed exactly instead. Time is O(N C D) for
    full attention and O(N C D log N) for causal; memory is linear in N.

    A position's result depends on all queries and keys that are clustered with its own, through the centroids: in full
    attention on every other query; in causal attention, beyond the leaf, also on later queries of its block, and
    through the length on where blocks begin, though never on later keys or values. So padding must be named, on
    whichever side it is: with ``mask`` or ``lengths`` real positions get what the same call without the padding gives
    them, one call for each length in the batch; the host reads the mask, and waits for a GPU that makes it. Without
    them padding is text like any other. In full attention with as many queries as keys, queries beside a masked key
    are clustered apart from the others.

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
        hardest layers of a language model less than half the error. Computed by torch on a GPU, too, where the kernels
        choose for clusters; without a dipole.
    leaf : causal blocks of at most this many positions are exact.
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
    leaf: int = 1024
    sinks: int = 0
    partition: Literal["kmeans", "balanced", "runs"] = "kmeans"
    seed: int = 0
    backend: Literal["auto", "torch", "triton"] = "auto"
    query_clusters: int | None = None
    levels: Literal["separate", "merged"] = "separate"
    near_for: Literal["cluster", "query"] = "cluster"

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition", renamed.value("partition", self.partition))
        check_count("near", self.near, 0)
        _ = self._partition  # checks its own fields
        if self.query_clusters is not None:
            check_count("query_clusters", self.query_clusters, 1)
        check_choice("order", self.order, ORDERS)
        check_choice("levels", self.levels, LEVELS)
        check_choice("near_for", self.near_for, NEAR_FOR)
        if self.near_for == "query" and (self.order == "dipole" or self.backend == "triton"):
            given = f"order {self.order!r} and backend {self.backend!r}"
            raise ValueError(f"near_for is 'query' with {given}; it needs a monopole, by 'auto' or 'torch'")
        if self.dipole_rank is not None:
            check_count("dipole_rank", self.dipole_rank, 1)
        check_count("leaf", self.leaf, 1)
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
        """The clusters of all queries and keys at every level of causal blocks."""
        if self._merged:
            return level_labels(self._leaf_query_partition, self._partition, q, k, mask, block, levels)
        return separate_labels(self._query_partition, self._partition, q, k, mask, block, levels)

    def _rank(self, head_size: int) -> int:
        """Directions that the dipole is kept along; 0 for none."""
        return 0 if self.order == "monopole" else min(self.dipole_rank or head_size, head_size)

    def _expansion(self, scale: float, head_size: int) -> Expansion:
        return Expansion(scale, self.near, self._rank(head_size), self.near_for == "query")

    def _by_kernels(self, q: Tensor, v: Tensor) -> bool:
        """Whether the expansions are those of the kernels, which choose near clusters for query clusters."""
        return self.near_for == "cluster" and use_triton(self.backend, q, v)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return attend_clustered(self, q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return attend_clustered(self, q, k, v, scale, mask, causal=True)

    def _over_all(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return behind_sinks(
            partial(_attend, self, False), self, q, k, v, scale, mask, False, self._by_kernels(q, v)
        )

    def _over_past(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return behind_sinks(
            partial(_attend, self, True), self, q, k, v, scale, mask, True, self._by_kernels(q, v)
        )


def implementation(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool
) -> Implementation:
    """What computes the attention of these queries over these keys, behind the sinks: the first line that fits.

    Causal attention block by block asks again, for the full attention of every block.
    """
    triton = method._by_kernels(q, v)
    one_leaf = causal and k.shape[2] <= method.leaf
    one_pass = mask is None and method.order == "monopole" and q.shape[2] == k.shape[2]
    in_runs = triton and mask is None and not one_leaf and kernels.in_runs(method, q, k, v, causal)
    in_place = causal and triton and one_pass and _merges_in_place(method, q.shape[2])
    table = (
        # attention, backend and what else must hold     computed by
        (one_leaf,                                       _exact),
        (not causal and not triton,                      _formula),
        (not causal and triton and in_runs,              kernels.full_runs),
        (not causal and triton,                          kernels.full),
        (causal and triton and one_pass and in_runs,     kernels.causal_runs),
        (in_place,                                       kernels.causal),
        (causal,                                         _block_by_block),
    )  # fmt: skip
    return next(computed_by for holds, computed_by in table if holds)


def _merges_in_place(method: MuSe, positions: int) -> bool:
    """Whether the kernels have place for the clusters that merge, where any do; otherwise torch merges them."""
    from multipole_lab.kernels.clustering.merge import MOST

    return not method._merged or method._partition.number(block_sizes(positions, method.leaf)[0]) <= MOST


def _attend(
    method: MuSe, causal: bool, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> Partial:
    return implementation(method, q, k, v, mask, causal)(method, q, k, v, scale, mask)


def _exact(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
    return exact_causal(q, k, v, scale, mask, method.backend)


def _formula(
    method: MuSe,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    labels: tuple[Labels, Labels] | None = None,
) -> Partial:
    of_queries, of_keys = labels or (method._query_partition.found(q), method._partition.found(k, mask))
    every_key = torch.ones_like(k[..., 0], dtype=torch.bool)
    kept = every_key if mask is None else mask[:, None].expand(k.shape[:3])
    clusters = Assignments(Slots.laid_out(of_queries), Slots.laid_out(of_keys), kept)
    return muse_recomputed(q, k, v, clusters, method._expansion(scale, q.shape[-1]))


def _block_by_block(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> Partial:
    full = partial(_attend, method, False)
    if not method._merged:
        return causal_attention(full, q, k, v, scale, mask, method.leaf, backend=method.backend)
    of_level = partial(kernels.of_labels if method._by_kernels(q, v) else _formula, method)
    return causal_attention(
        of_level, q, k, v, scale, mask, method.leaf, full, method.backend, labels=method._level_labels
    )
