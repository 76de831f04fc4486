"""MuSe (2509.10406): keys expanded around the centroids of the query clusters, the nearest clusters exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from multipole_lab.attention.calls.backend import check_backend, use_triton
from multipole_lab.attention.calls.checks import finite
from multipole_lab.attention.calls.padding import without_gaps
from multipole_lab.attention.causal import causal_attention, with_sinks
from multipole_lab.attention.exact import exact_causal, exact_partial
from multipole_lab.attention.expansion import NEVER, dipole, far_field, principal_directions, summarise
from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.attention.partition import Partition
from multipole_lab.attention.recompute import recomputed
from multipole_lab.attention.slots import Slots, from_slots, to_slots
from multipole_lab.clustering.checks import check_count
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.suggesting import check_choice

ORDERS = ("monopole", "dipole")


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
    leaf : causal blocks of at most this many positions are exact.
    sinks : leading keys that every query sees exactly, outside all clusters.
    partition : "kmeans", "balanced" (equal sizes by principal axes), "spatial" (contiguous blocks).
    seed : of the clustering.
    backend : "auto", "torch" or "triton".
    query_clusters : clusters of the queries where they are to be other than those of the keys; at most as many as
        queries are made. A tenth of C costs little accuracy in causal attention and saves most of the summaries.

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
    partition: Literal["kmeans", "balanced", "spatial"] = "kmeans"
    seed: int = 0
    backend: Literal["auto", "torch", "triton"] = "auto"
    query_clusters: int | None = None

    def __post_init__(self) -> None:
        check_count("near", self.near, 0)
        _ = self._partition  # checks its own fields
        if self.query_clusters is not None:
            check_count("query_clusters", self.query_clusters, 1)
        check_choice("order", self.order, ORDERS)
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

    def _rank(self, head_size: int) -> int:
        """Directions that the dipole is kept along; 0 for none."""
        return 0 if self.order == "monopole" else min(self.dipole_rank or head_size, head_size)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        self._partition.check_fits(k.shape[2])
        square = q.shape[2] == k.shape[2]
        return without_gaps(self._over_all, q, k, v, scale, mask, False, square, self._over_all)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        if mask is not None and k.shape[2] <= self.leaf:
            return exact_causal(q, k, v, scale, mask, self.backend)
        return without_gaps(self._over_past, q, k, v, scale, mask, True, True, self._over_all)

    def _over_all(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        triton = use_triton(self.backend, q, v)
        if not triton and not finite(q, k, v):
            return exact_partial(q, k, v, scale, mask=mask)
        attend = self._kernels() if triton else self._clustered
        return with_sinks(attend, q, k, v, scale, mask, self.sinks, causal=False, backend=self.backend)

    def _over_past(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        triton = use_triton(self.backend, q, v)
        if not triton and not finite(q, k, v):
            return exact_causal(q, k, v, scale, mask)
        attend = self._kernels() if triton else self._clustered

        def blocks(q, k, v, scale, mask):
            if triton and mask is None and self.order == "monopole" and q.shape[2] == k.shape[2]:
                return self._kernels("causal")(q, k, v, scale)
            return causal_attention(attend, q, k, v, scale, mask, self.leaf, backend=self.backend)

        return with_sinks(blocks, q, k, v, scale, mask, self.sinks, causal=True, backend=self.backend)

    def _kernels(self, kind: str = "full"):
        """Attention by the Triton kernels, which are imported only where they run."""
        from multipole_lab.attention import muse_kernels

        return partial(getattr(muse_kernels, kind), self)

    def _clustered(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        q_slots = self._query_partition.slots(q)
        k_slots = self._partition.slots(k, mask)
        kept = (
            torch.ones_like(k[..., 0], dtype=torch.bool)
            if mask is None
            else mask[:, None].expand(k.shape[:3])
        )
        constants = [
            q_slots.index,
            q_slots.filled,
            q_slots.slot,
            k_slots.index,
            k_slots.filled,
            k_slots.slot,
            kept,
        ]
        return _muse(q, k, v, constants, [scale, float(self.near), float(self._rank(q.shape[-1]))])


def muse_formula(q: Tensor, k: Tensor, v: Tensor, constants: list[Tensor], settings: list[float]) -> Partial:
    """The plain formula, given the assignments: what is differentiated, and what the kernels are tested against.

    The expansion points are the means of the query clusters; gradients flow through them and through the principal
    directions. The choice of near clusters is a constant, as the assignments are.
    """
    q_slots, k_slots, kept = Slots(*constants[:3]), Slots(*constants[3:6]), constants[6]
    s, near, rank = settings[0], int(settings[1]), int(settings[2])
    B, Hq, Nq, D = q.shape
    rows, Dv, dtype = B * k.shape[1], v.shape[-1], q.dtype
    q, k, v = (x.to(statistics_dtype(x.dtype)) for x in (q, k, v))
    # All query heads of a group see the same keys, so their clusters are one list: I = group * C.
    qs = to_slots(q, q_slots, kept.new_ones(B, Hq, Nq)).view(
        rows, -1, q_slots.index.shape[-1], D
    )  # [R, I, Mq, D]
    ks = to_slots(k, k_slots, kept).view(rows, *k_slots.index.shape[2:], D)  # [R, J, Mk, D]
    vs = to_slots(v, k_slots, kept).view(rows, *k_slots.index.shape[2:], Dv)
    members = q_slots.filled.view(*qs.shape[:3])
    k_filled = k_slots.filled.view(*ks.shape[:3])

    p = expansion_points(qs, members)  # [R, I, D]
    a, k_tilted, v_tilted = summarise(p, ks, vs, k_filled, s)
    near = min(near, a.shape[-1])
    nearest = a.detach().topk(near, dim=-1).indices if near else None
    a_far = a if nearest is None else a.scatter(-1, nearest, NEVER)
    out, lse = far_field(qs, p, a_far, k_tilted, v_tilted, s)
    if rank:
        d = qs - p.unsqueeze(2)
        if rank < D:
            basis = principal_directions(d * members.unsqueeze(-1), rank)
        else:  # nothing to project on, and no rounding by it
            basis = torch.eye(D, dtype=d.dtype, device=d.device).expand(*p.shape, D)
        far = far_keys(k_slots, kept, a_far)
        out = out + dipole(
            d, p, k.view(rows, -1, D), v.view(rows, -1, Dv), far, a_far, k_tilted, v_tilted, basis, s
        )
    if nearest is not None:
        out, lse = merge([(out, lse), near_field(qs, ks, vs, k_filled, nearest, s)])
    out = torch.where(lse.unsqueeze(-1) == -torch.inf, 0.0, out)  # padding is all there is
    out = from_slots(out.reshape(*q_slots.index.shape, Dv), q_slots)
    lse = from_slots(lse.view(*q_slots.index.shape, 1), q_slots).squeeze(-1)
    return out.to(dtype), lse


def _largest(q: Tensor, k: Tensor, v: Tensor, constants: list[Tensor], settings: list[float]) -> int:
    """Numbers in the largest temporary of one row: the tilt, the summaries, or the near field's keys."""
    points = q.shape[1] * constants[0].shape[2]  # [I, Mq] and [J, Mk] are the last dimensions of the slots
    J, Mk = constants[3].shape[2:]
    width = max(k.shape[-1], v.shape[-1])
    near, rank = int(settings[1]), int(settings[2])
    return points * max(J * Mk, J * width, near * Mk * width, rank * k.shape[2])


_muse = recomputed("muse", muse_formula, _largest)


def expansion_points(qs: Tensor, members: Tensor) -> Tensor:
    """The mean of each query cluster, [R, I, D]; zero for an empty one."""
    weights = members.to(qs.dtype) / members.sum(-1, keepdim=True).clamp(min=1)
    return (weights.unsqueeze(-2) @ qs).squeeze(-2)


def far_keys(k_slots: Slots, kept: Tensor, a_far: Tensor) -> Tensor:
    """Which keys are in a far cluster of which query cluster, [R, I, N]."""
    R, I, J = a_far.shape
    M = k_slots.index.shape[-1]
    label = (k_slots.slot // M % J).view(R, 1, -1)
    far = (a_far.detach() > NEVER).gather(-1, label.expand(R, I, -1))
    return far & kept.reshape(R, 1, -1)


def near_field(qs: Tensor, ks: Tensor, vs: Tensor, filled: Tensor, nearest: Tensor, s: float) -> Partial:
    """Exact attention of every query cluster over its near key clusters: [R, I, Mq, Dv] and [R, I, Mq]."""
    R, I, M, D = qs.shape
    J, Mk = ks.shape[1:3]
    pick = (nearest + torch.arange(R, device=qs.device).view(R, 1, 1) * J).view(-1)
    keys = ks.reshape(R * J, -1).index_select(0, pick).view(R * I, 1, -1, D)
    values = vs.reshape(R * J, -1).index_select(0, pick).view(R * I, 1, keys.shape[2], -1)
    mask = filled.reshape(R * J, Mk).index_select(0, pick).view(R * I, -1)
    out, lse = exact_partial(qs.reshape(R * I, 1, M, D), keys, values, s, mask=mask)
    return out.view(R, I, M, -1), lse.view(R, I, M)
