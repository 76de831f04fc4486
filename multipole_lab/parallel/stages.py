"""What each rank computes between the messages: MuSe's formula (``attention.muse_formula``) in two halves.

Shapes as in ``attention.expansion``: R = B * Hk rows, I query clusters a row (of all G heads of its group), J key
clusters, Mq and Mk slots a cluster. F = D + Dv: a key and its value side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.expansion import (
    NEVER,
    dipole,
    far_field,
    first_moment,
    near_field,
    nearest_clusters,
    summarise,
    together,
)
from multipole_lab.attention.partials import Partial


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


def select_near(a: Float[Tensor, "R I J"], near: int) -> tuple[Int[Tensor, "R I near"], Bool[Tensor, "R J"]]:
    """The ``near`` clusters of largest mass at every point, and which are near to some point of the row."""
    nearest = nearest_clusters(a, near)
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


def total_moment(
    a: Float[Tensor, "R I J"], moment: Float[Tensor, "T R I r Dv"], clusters: tuple[int, ...]
) -> Float[Tensor, "R I r Dv"]:
    """At the queries: the first moments of T sources put together, by the mass of the clusters that each has."""
    share = torch.stack([part.logsumexp(-1) for part in a.split(clusters, -1)]).softmax(0)  # [T, R, I]
    return (share[..., None, None] * moment).sum(0)


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

    With a dipole, ``basis`` are its directions, and ``moment`` is the part of each of the T sources, which have that
    many ``clusters``.
    """
    D = qs.shape[-1]
    a, k_tilted, v_tilted = summary.split([1, D, summary.shape[-1] - 1 - D], -1)
    a = a.squeeze(-1)
    if near is not None:
        a = a.scatter(-1, near.nearest, NEVER)
    far = far_field(qs, p, a, k_tilted, v_tilted, s)
    correction = exact = None
    if moment is not None:
        whole = total_moment(a, moment, clusters)
        correction = dipole(qs - p.unsqueeze(2), whole, a, k_tilted, v_tilted, basis, s)
    if near is not None:
        R, I, Mq, _ = qs.shape
        slots = members.new_zeros(*near.filled.shape, members.shape[-1])
        slots = slots.masked_scatter(near.filled.unsqueeze(-1), members).unsqueeze(0)
        k, v = slots.split([D, v_tilted.shape[-1]], -1)
        fetched = near.fetched.view(1, R * I, -1)
        exact = near_field(qs.view(1, R * I, Mq, D), k, v, near.filled.unsqueeze(0), fetched, s)
        exact = tuple(x.view(R, I, Mq, *x.shape[3:]) for x in exact)
    return together(far, correction, exact)
