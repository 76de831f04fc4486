"""The expansion of a cluster around a point, and MuSe, which is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.testing.oracle.softmax import Partial, exact, merge, softmax, softmax_sum


@dataclass(frozen=True)
class Summary:
    """What is kept of clusters that were summed at p; an empty one has a mass of -inf and no place in any sum."""

    mass: Float[Tensor, "*at"]
    key: Float[Tensor, "*at D"]
    value: Float[Tensor, "*at Dv"]


def summary(
    p: Float[Tensor, "*at D"], k: Float[Tensor, "n D"], v: Float[Tensor, "n Dv"], s: float
) -> Summary:
    """One cluster at points p: ``a(p) = log sum_n exp(s p.k_n)``, ``k~(p) = sum_n w_n k_n``, ``v~(p) = sum_n w_n v_n``.

    The weights are ``w_n = exp(s p.k_n - a(p))``. At the origin: the log of the size, the mean key, the mean value.
    """
    a, w = tilt(p, k, s)
    return Summary(a, w @ k, w @ v)


def dipole(
    p: Float[Tensor, "*at D"], k: Float[Tensor, "n D"], v: Float[Tensor, "n Dv"], s: float
) -> Float[Tensor, "*at Dv D"]:
    """One cluster at points p: ``M(p) = sum_n w_n (v_n - v~)(k_n - k~)^T``."""
    _, w = tilt(p, k, s)
    off_v, off_k = v - (w @ v).unsqueeze(-2), k - (w @ k).unsqueeze(-2)  # [*at, n, Dv], [*at, n, D]
    return (w.unsqueeze(-1) * off_v).mT @ off_k


def tilt(
    p: Float[Tensor, "*at D"], k: Float[Tensor, "n D"], s: float
) -> tuple[Float[Tensor, "*at"], Float[Tensor, "*at n"]]:
    """The mass ``a(p)`` of a cluster and the weights ``w_n`` of its keys."""
    logits = s * p @ k.mT
    a = logits.logsumexp(-1)
    return a, (logits - a.unsqueeze(-1)).exp()


def members(labels: Int[Tensor, " N"], clusters: int | None = None) -> list[Int[Tensor, " n"]]:
    """The positions of every cluster's members."""
    clusters = int(labels.max()) + 1 if clusters is None else clusters
    return [(labels == j).nonzero().flatten() for j in range(clusters)]


def means(x: Float[Tensor, "N D"], labels: Int[Tensor, " N"], clusters: int) -> Float[Tensor, "C D"]:
    """The mean of every cluster; zero for an empty one."""
    return torch.stack(
        [x[n].mean(0) if len(n) else x.new_zeros(x.shape[-1]) for n in members(labels, clusters)]
    )


def summaries(
    p: Float[Tensor, "I D"],
    k: Float[Tensor, "Nk D"],
    v: Float[Tensor, "Nk Dv"],
    labels: Int[Tensor, " Nk"],
    s: float,
    clusters: int | None = None,
) -> Summary:
    """All J clusters of keys at all I points: mass [I, J], key [I, J, D], value [I, J, Dv]."""
    each = [summary(p, k[n], v[n], s) for n in members(labels, clusters)]
    return Summary(*(torch.stack([getattr(one, x) for one in each], 1) for x in ("mass", "key", "value")))


def expanded(
    d: Float[Tensor, "n D"], at: Summary, s: float, dipoles: Float[Tensor, "J Dv D"] | None = None
) -> tuple[Float[Tensor, "n J"], Float[Tensor, "n J Dv"]]:
    """J clusters as a query ``q = p + d`` sees them: ``a_j(q) ~ a_j + s d.k~_j`` and ``v_j(q) ~ v~_j [+ s M_j d]``."""
    logits = at.mass + s * d @ at.key.mT
    values = at.value.expand(len(d), *at.value.shape)
    if dipoles is not None:
        values = values + s * torch.einsum("jed,nd->nje", dipoles, d)
    return logits, values


def far_dipoles(
    p: Float[Tensor, "I D"],
    k: Float[Tensor, "Nk D"],
    v: Float[Tensor, "Nk Dv"],
    labels: Int[Tensor, " Nk"],
    far: Bool[Tensor, "I J"],
    s: float,
) -> Float[Tensor, "I Dv D"]:
    """The far clusters' dipoles by their softmax mass: ``M_i = sum_j pi_j M_j``, ``pi = softmax(a(p_i))``."""
    J = far.shape[1]
    pi, _ = softmax(summaries(p, k, v, labels, s, J).mass, far)
    there = [(j, n) for j, n in enumerate(members(labels, J)) if len(n)]
    return sum(pi[:, j, None, None] * dipole(p, k[n], v[n], s) for j, n in there)


def muse(
    q: Float[Tensor, "Nq D"],
    k: Float[Tensor, "Nk D"],
    v: Float[Tensor, "Nk Dv"],
    q_labels: Int[Tensor, " Nq"],
    k_labels: Int[Tensor, " Nk"],
    basis: Float[Tensor, "I D r"] | None = None,
    near: int | Bool[Tensor, "I J"] = 0,
    *,
    s: float,
    order: str = "monopole",
    near_for: str = "cluster",
    points: Float[Tensor, "I D"] | None = None,
) -> Partial:
    """MuSe (2509.10406): clusters of keys expanded at the mean p of each cluster of queries, the near ones exactly.

    ``o(q) = sum_far softmax_j(a_j(p) + s d.k~_j) v~_j [+ s M B B^T d]`` with ``d = q - p``, merged with exact
    attention over the members of the near clusters.

    Parameters
    ----------
    basis : the directions B along which a dipole is kept, orthonormal columns for every query cluster; None for all.
    near : how many clusters of largest mass at p are summed exactly, or for every pair of clusters whether.
    order : "monopole", or "dipole" for the bracket.
    points : the points p, where they are other ones than the means.
    near_for : "cluster", or "query" where each query chooses those of largest ``a_j(p) + s d.k~_j`` (a monopole).
    """
    p = means(q, q_labels, int(q_labels.max()) + 1) if points is None else points
    I = len(p)
    at = summaries(p, k, v, k_labels, s, None if isinstance(near, int) else near.shape[1])
    is_near = nearest(at.mass, near) if isinstance(near, int) else near
    M = far_dipoles(p, k, v, k_labels, ~is_near, s) if order == "dipole" else None
    out, lse = q.new_zeros(len(q), v.shape[-1]), q.new_full((len(q),), -torch.inf)
    for i, mine in enumerate(members(q_labels, I)):
        if len(mine) == 0:
            continue
        d = q[mine] - p[i]
        logits, values = expanded(d, Summary(at.mass[i], at.key[i], at.value[i]), s)
        chosen = nearest(logits, near) if near_for == "query" else is_near[i].expand(len(mine), -1)
        far_out, far_lse = softmax_sum(logits, values[0], ~chosen)
        if M is not None:
            along = d if basis is None else d @ basis[i] @ basis[i].mT
            far_out = far_out + s * along @ M[i].mT
        near_part = exact(q[mine], k, v, s, chosen[:, k_labels.clamp(min=0)] & (k_labels >= 0))
        both = merge([(far_out, far_lse), near_part])
        out, lse = (x.index_copy(0, mine, part) for x, part in zip((out, lse), both, strict=True))
    return out, lse


def nearest(mass: Float[Tensor, "at J"], near: int) -> Bool[Tensor, "at J"]:
    """Which clusters have the largest mass, for every point or query."""
    chosen = mass.detach().topk(min(near, mass.shape[1])).indices
    return torch.zeros_like(mass, dtype=torch.bool).scatter(1, chosen, True)
