"""What each rank computes between the messages: MuSe's formula (``attention.muse.muse_formula``) in two halves.

Shapes as in ``attention.expansion``: R = B * Hk rows, I query clusters a row (of all G heads of its group), J key
clusters, Mq and Mk slots a cluster. F = D + Dv: a key and its value side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.expansion import NEVER, far_field, first_moment, principal_directions, summarise
from multipole_lab.attention.muse import expansion_points, near_field
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.attention.slots import Slots, from_slots, to_slots
from multipole_lab.clustering.clusters import statistics_dtype


@dataclass(frozen=True)
class Assignments:
    """The clusters of this rank's queries and keys, in slots; ``kept`` [B, Hk, Nk] is False for padding."""

    queries: Slots
    keys: Slots
    kept: Bool[Tensor, "B Hk Nk"]

    @property
    def members(self) -> Bool[Tensor, "R I Mq"]:
        """Which query slots are filled."""
        B, _, _, M = self.queries.filled.shape
        return self.queries.filled.view(B * self.kept.shape[1], -1, M)

    @property
    def filled(self) -> Bool[Tensor, "R J Mk"]:
        """Which key slots are filled."""
        return self.keys.filled.flatten(0, 1)

    def queries_and_points(self, q: Tensor) -> tuple[Float[Tensor, "R I Mq D"], Float[Tensor, "R I D"]]:
        """The queries in slots and the centroids of their clusters, the expansion points."""
        all_kept = torch.ones(q.shape[:3], dtype=torch.bool, device=q.device)
        qs = to_slots(q.to(statistics_dtype(q.dtype)), self.queries, all_kept)
        qs = qs.view(*self.members.shape, q.shape[-1])
        return qs, expansion_points(qs, self.members)

    def directions(
        self, qs: Float[Tensor, "R I Mq D"], p: Float[Tensor, "R I D"], rank: int
    ) -> Float[Tensor, "R I D r"]:
        """The directions that the dipole is kept along."""
        if rank == p.shape[-1]:
            return torch.eye(rank, dtype=p.dtype, device=p.device).expand(*p.shape, rank)
        return principal_directions((qs - p.unsqueeze(2)) * self.members.unsqueeze(-1), rank)

    def keys_and_values(self, k: Tensor, v: Tensor) -> Float[Tensor, "R J Mk F"]:
        """Keys and values in slots."""
        both = (to_slots(x.to(statistics_dtype(x.dtype)), self.keys, self.kept) for x in (k, v))
        return torch.cat([x.flatten(0, 1) for x in both], -1)

    def back(self, out: Tensor, lse: Tensor) -> Partial:
        """Results in slots at their positions again, [B, Hq, Nq, Dv] and [B, Hq, Nq]."""
        shape = self.queries.index.shape
        out = from_slots(out.reshape(*shape, -1), self.queries)
        return out, from_slots(lse.reshape(*shape, 1), self.queries).squeeze(-1)


def summaries(
    p: Float[Tensor, "R I D"], kv: Float[Tensor, "R J Mk F"], filled: Bool[Tensor, "R J Mk"], s: float
) -> Float[Tensor, "R I J 1+F"]:
    """At the keys: mass, tilted key centroid and tilted value centroid of every key cluster at every point asked."""
    k, v = (x.contiguous() for x in kv.split([p.shape[-1], kv.shape[-1] - p.shape[-1]], -1))
    a, k_tilted, v_tilted = summarise(p, k, v, filled, s)
    return torch.cat([a.unsqueeze(-1), k_tilted, v_tilted], -1)


@dataclass(frozen=True)
class Near:
    """Which key clusters are summed exactly, and where their members stand in what was fetched.

    Attributes
    ----------
    nearest : [R, I, near]. The clusters of each query cluster, among all J of its sources.
    fetched : [R, I, near]. The same, as numbers of the clusters fetched, U in all.
    filled : [U, M]. Which slots of those hold a member.
    """

    nearest: Int[Tensor, "R I near"]
    fetched: Int[Tensor, "R I near"]
    filled: Bool[Tensor, "U M"]


def choose(a: Float[Tensor, "R I J"], near: int) -> tuple[Int[Tensor, "R I near"], Bool[Tensor, "R J"]]:
    """The ``near`` clusters of largest mass at every point, and which clusters some point of the row chose."""
    nearest = a.topk(near, -1).indices
    wanted = torch.zeros(a.shape[0], a.shape[2], dtype=torch.bool, device=a.device)
    return nearest, wanted.scatter_(1, nearest.flatten(1), True)


def placed(nearest: Tensor, wanted: list[Tensor], sizes: list[Tensor]) -> Near:
    """Where the fetched members go: sources in order, then rows, then clusters.

    ``wanted`` [R, J_t] and ``sizes`` [R, J_t] of every source t.
    """
    counts = torch.cat([size[want] for size, want in zip(sizes, wanted, strict=True)])  # [U]
    filled = torch.arange(max(1, int(counts.max())), device=counts.device) < counts.unsqueeze(-1)
    numbers, first = [], 0
    for want in wanted:
        numbers.append((want.flatten().cumsum(0) - 1 + first).view(want.shape))
        first += int(want.sum())
    number = torch.cat(numbers, 1)  # [R, J], of clusters that were not fetched meaningless and never used
    return Near(nearest, number.gather(1, nearest.flatten(1)).view(nearest.shape), filled)


def moments(
    p: Float[Tensor, "R I D"],
    basis: Float[Tensor, "R I D r"],
    kv: Float[Tensor, "R J Mk F"],
    filled: Bool[Tensor, "R J Mk"],
    near: Bool[Tensor, "R I J"],
    s: float,
) -> Float[Tensor, "R I r Dv"]:
    """At the keys: ``sum_n w_n (b.k_n) v_n`` for the directions b of every point, over the keys not near to it.

    The weights are the softmax over those keys of this rank; the points' owner knows their mass among all ranks'.
    """
    k, v = kv.flatten(1, 2).split([basis.shape[2], kv.shape[-1] - basis.shape[2]], -1)  # [R, N, .]
    far = filled.unsqueeze(1) & ~near.unsqueeze(-1)  # [R, I, J, Mk]
    return first_moment(p, k, v, far.flatten(2), basis, s)


def correction(
    d: Float[Tensor, "R I Mq D"],
    basis: Float[Tensor, "R I D r"],
    a: Float[Tensor, "R I J"],
    k_tilted: Float[Tensor, "R I J D"],
    v_tilted: Float[Tensor, "R I J Dv"],
    moment: Float[Tensor, "T R I r Dv"],
    clusters: tuple[int, ...],
    s: float,
) -> Float[Tensor, "R I Mq Dv"]:
    """At the queries: ``s M d``, ``attention.expansion.dipole`` with the first moments of T sources put together.

    ``clusters`` says how many of the J clusters each source has.
    """
    share = torch.stack([part.logsumexp(-1) for part in a.split(clusters, -1)]).softmax(0)  # [T, R, I]
    total = (share[..., None, None] * moment).sum(0)
    means = (k_tilted @ basis).mT @ (a.softmax(-1).unsqueeze(-1) * v_tilted)  # [R, I, r, Dv]
    return s * (d @ basis) @ (total - means)


def evaluate(
    qs: Float[Tensor, "R I Mq D"],
    p: Float[Tensor, "R I D"],
    summary: Float[Tensor, "R I J 1+F"],
    members: Float[Tensor, "n F"] | None,
    near: Near | None,
    basis: Float[Tensor, "R I D r"] | None,
    moment: Float[Tensor, "T R I r Dv"] | None,
    clusters: tuple[int, ...],
    s: float,
) -> Partial:
    """At the queries: the far field from the summaries, merged with exact attention over the clusters fetched.

    With a dipole, ``basis`` are its directions and ``moment`` what the T sources, of so many ``clusters``, say of it.
    """
    D = qs.shape[-1]
    a, k_tilted, v_tilted = summary.split([1, D, summary.shape[-1] - 1 - D], -1)
    a = a.squeeze(-1)
    if near is not None:
        a = a.scatter(-1, near.nearest, NEVER)
    out, lse = far_field(qs, p, a, k_tilted, v_tilted, s)
    if moment is not None:
        out = out + correction(qs - p.unsqueeze(2), basis, a, k_tilted, v_tilted, moment, clusters, s)
    if near is not None:
        R, I, Mq, _ = qs.shape
        slots = members.new_zeros(*near.filled.shape, members.shape[-1])
        k, v = (
            slots.masked_scatter(near.filled.unsqueeze(-1), members)
            .unsqueeze(0)
            .split([D, out.shape[-1]], -1)
        )
        exact, exact_lse = near_field(
            qs.view(1, R * I, Mq, D), k, v, near.filled.unsqueeze(0), near.fetched.view(1, R * I, -1), s
        )
        out, lse = merge([(out, lse), (exact.view(R, I, Mq, -1), exact_lse.view(R, I, Mq))])
    return torch.where(lse.unsqueeze(-1) == -torch.inf, 0.0, out), lse
