"""MuSe as torch computes it, given the assignments: what is differentiated, in every mode and order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.calls.recompute import recomputed
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.own_near import own_near_field, tile_size
from multipole_lab.attention.expansion import (
    NEVER,
    dipole,
    far_field,
    far_values,
    first_moment,
    masses_at,
    near_field,
    nearest_clusters,
    summarise,
    together,
)
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype


@dataclass(frozen=True)
class Expansion:
    """How the keys' clusters are expanded.

    Attributes
    ----------
    scale : s, the factor of the logits.
    near : how many clusters of largest mass each query cluster sums exactly.
    rank : directions that the dipole is kept along; 0 for a monopole.
    own : whether each query chooses its near clusters for itself; only of a monopole.
    points : how many of the last queries are no queries but the expansion points of every head's clusters; 0 where
        those are the means of the clusters.
    """

    scale: float
    near: int = 0
    rank: int = 0
    own: bool = False
    points: int = 0


def muse_formula(
    q: Float[Tensor, "B Hq Nq D"],
    k: Float[Tensor, "B Hk Nk D"],
    v: Float[Tensor, "B Hk Nk Dv"],
    clusters: Assignments,
    expansion: Expansion,
) -> Partial:
    """The far clusters around the means of the query clusters, merged with the near ones exactly.

    Gradients flow through the expansion points and through the principal directions. The choice of near clusters is a
    constant, as the assignments are. Of expansion points among the queries nothing is asked: they get zeros and -inf.
    """
    if expansion.points:
        out, lse = _around(
            *q.split([q.shape[2] - expansion.points, expansion.points], 2), k, v, clusters, expansion
        )
        return pad(out, (0, 0, 0, expansion.points)), pad(lse, (0, expansion.points), value=-torch.inf)
    return _around(q, None, k, v, clusters, expansion)


def _around(
    q: Tensor, points: Tensor | None, k: Tensor, v: Tensor, clusters: Assignments, expansion: Expansion
) -> Partial:
    s, dtype = expansion.scale, q.dtype
    q, k, v = (x.to(statistics_dtype(x.dtype)) for x in (q, k, v))
    qs, p = clusters.queries_and_points(q)
    if points is not None:
        p = points.to(q.dtype).reshape(p.shape)
    ks, vs = clusters.keys_and_values(k, v)
    a, k_tilted, v_tilted = summarise(p, ks, vs, clusters.filled, s)
    if expansion.near and expansion.own:
        masses = masses_at(qs, p, a, k_tilted, s)
        chosen = nearest_clusters(masses, expansion.near)
        out, lse = clusters.back(*far_values(masses.scatter(-1, chosen, NEVER), v_tilted))
        asking = q.reshape(len(ks), -1, q.shape[-1])
        near = own_near_field(asking, clusters.of_queries(chosen), ks, vs, clusters.filled, s)
        out, lse = together((out, lse), None, (near[0].view_as(out), near[1].view_as(lse)))
        return out.to(dtype), lse
    nearest = nearest_clusters(a, expansion.near) if expansion.near else None
    a_far = a if nearest is None else a.scatter(-1, nearest, NEVER)
    far = far_field(qs, p, a_far, k_tilted, v_tilted, s)
    correction = near = None
    if expansion.rank:
        d = qs - p.unsqueeze(2)
        basis = clusters.directions(d, expansion.rank)
        k, v = (x.reshape(len(p), -1, x.shape[-1]) for x in (k, v))
        moment = first_moment(p, k, v, clusters.far_keys(a_far), basis, s)
        correction = dipole(d, moment, a_far, k_tilted, v_tilted, basis, s)
    if nearest is not None:
        near = near_field(qs, ks, vs, clusters.filled, nearest, s)
    out, lse = clusters.back(*together(far, correction, near))
    return out.to(dtype), lse


def _largest(q: Tensor, k: Tensor, v: Tensor, clusters: Assignments, expansion: Expansion) -> int:
    """Numbers in the largest temporary of one row: the tilt, the summaries, or the near field's keys."""
    # [I, Mq] and [J, Mk] are the last dimensions of the slots.
    points = q.shape[1] * clusters.queries.index.shape[2]
    J, Mk = clusters.keys.index.shape[2:]
    width = max(k.shape[-1], v.shape[-1])
    if expansion.own and expansion.near:
        n, size = q.shape[1] * q.shape[2], tile_size(q.shape[1] * q.shape[2], expansion.near, J)
        tiles = n * expansion.near // size + J
        return max(points * J * max(Mk, width), tiles * Mk * max(size, width))
    return points * max(J * Mk, J * width, expansion.near * Mk * width, expansion.rank * k.shape[2])


# The same as an operator that keeps nothing but its arguments for the backward.
muse_recomputed = recomputed("muse", muse_formula, _largest, Assignments, Expansion)
