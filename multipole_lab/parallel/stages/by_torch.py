"""What each rank computes between the messages, in torch: MuSe's formula (``attention.muse_formula``) in two halves.

Shapes: I clusters of queries and J of keys a head, on the way between ranks. Inside, as in ``attention.expansion``:
R = B * Hk rows, whose clusters of queries are those of all G heads of their group.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.clusters.slots import from_slots, to_slots
from multipole_lab.attention.expansion import (
    NEVER,
    dipole,
    far_field,
    first_moment,
    nearest_clusters,
    principal_directions,
    softmax_by_owner,
    summarise,
    together,
)
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.clustering.clusters import counting_sort, statistics_dtype
from multipole_lab.parallel.fetching import Fetched
from multipole_lab.parallel.stages.gradients import gradients, leaves_of
from multipole_lab.parallel.stages.near import near_field
from multipole_lab.parallel.stages.pieces import Pieces


class TorchStages:
    """The stages of one call on one rank. The state is which query and which key is in which cluster.

    Parameters
    ----------
    of_queries, of_keys : how they are clustered.
    scale : s. near : key clusters that each query cluster sums exactly.
    rank : directions of the dipole, 0 for a monopole.
    """

    name = "torch"

    def __init__(
        self, of_queries: Partition, of_keys: Partition, scale: float, near: int, rank: int = 0
    ) -> None:
        self.of_queries, self.of_keys, self.scale, self.near, self.rank = (
            of_queries,
            of_keys,
            scale,
            near,
            rank,
        )
        # Of a dipole: its directions [B, Hq, I, D, r], and the first moments of the T sources [T, B, Hq, I, r, Dv].
        self.basis: Tensor | None = None
        self.moment: Tensor | None = None

    def cluster_queries(self, q: Float[Tensor, "B Hq n D"]) -> Float[Tensor, "B Hq I D"]:
        """Cluster; the means of the clusters, in the dtype in which they travel."""
        self.q_sorted = counting_sort(self.of_queries.labels(q), self.of_queries.number(q.shape[2]))
        self.queries = Pieces.of(*self.q_sorted, self.of_queries.largest(q.shape[2]))
        return self.queries.mean(self._queries(q)).to(q.dtype)

    def cluster_keys(self, k: Float[Tensor, "B Hk n D"], mask: Bool[Tensor, "B n"] | None) -> None:
        """Cluster the keys that count."""
        labels = self.of_keys.labels(k, mask)
        self.k_sorted = counting_sort(labels, self.of_keys.number(k.shape[2]))
        self.keys = Pieces.of(*self.k_sorted, self.of_keys.largest(k.shape[2]))
        self.kept = labels >= 0

    def summaries(self, points: Float[Tensor, "B Hq I D"], k: Tensor, v: Tensor) -> list[Tensor]:
        """At the keys: mass [B, Hq, I, J], in float32 at least, tilted means of keys and values [B, Hq, I, J, .]."""
        mass, *means = self._summaries(points, k, v)
        return [mass, *(x.to(k.dtype) for x in means)]

    def nearest(self, mass: Tensor) -> tuple[Tensor, Tensor]:
        """The near clusters of all sources, -1 where only empty ones were left, and the masses without theirs."""
        nearest = nearest_clusters(mass, self.near)
        far = mass.scatter(-1, nearest, NEVER)
        return torch.where(mass.gather(-1, nearest) < NEVER / 2, -1, nearest), far

    def evaluate(
        self,
        q: Tensor,
        points: Tensor,
        summary: list[Tensor],
        near: Fetched | None,
        before: Partial | None = None,
    ) -> Partial:
        """At the queries: the far field from the summaries, merged with exact attention over the clusters fetched, and
        with what was computed before of other clusters."""
        members = None if near is None else near.members
        seen = self._evaluate(q, points, *summary, members, self.basis, self.moment, near)
        out, lse = seen if before is None else merge([before, seen])
        return out.to(q.dtype), lse

    def evaluate_backward(
        self, q: Tensor, points: Tensor, summary: list[Tensor], near: Fetched | None, result: Partial,
        upstream: Partial, before: Partial | None = None,
    ) -> tuple[list[Tensor], Tensor | None]:  # fmt: skip
        """The gradients of the summaries and of the members fetched, which go back where those came from; result and
        upstream are of all that was merged, with what was there before."""
        leaves = leaves_of(
            q=q, points=points, mass=summary[0], k_tilted=summary[1], v_tilted=summary[2],
            members=None if near is None else near.members, basis=self.basis, moment=self.moment,
        )  # fmt: skip
        with torch.enable_grad():
            seen = self._evaluate(**leaves, near=near)
            found = gradients(seen if before is None else merge([before, seen]), leaves, upstream)
        dq, d_points, *d_summary, d_members, d_basis, self.d_moment = found
        self.for_queries = q, dq, d_points, d_basis
        return d_summary, d_members

    def queries_backward(self, d_points: Tensor | None, d_basis: Tensor | None = None) -> Tensor:
        """dq, when the sources have said what they know of the centroids (and directions)."""
        (q, dq, own, own_basis), self.for_queries = self.for_queries, ()
        with torch.enable_grad():
            q = q.detach().requires_grad_()
            results, upstream = (
                [self.queries.mean(self._queries(q))],
                [own if d_points is None else own + d_points],
            )
            if self.rank:
                results.append(self.directions(q))
                upstream.append(own_basis if d_basis is None else own_basis + d_basis)
            return dq + gradients(results, {"q": q}, upstream)[0]

    def summaries_backward(
        self, points: Tensor, k: Tensor, v: Tensor, d_summary: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At the keys: the gradients of the centroids, and those of k and v."""
        leaves = leaves_of(points=points, k=k, v=v)
        with torch.enable_grad():
            return tuple(gradients(self._summaries(**leaves), leaves, d_summary))

    def directions(self, q: Tensor) -> Float[Tensor, "B Hq I D r"]:
        """The directions that the dipole of each query cluster is kept along; all of them where that is the rank."""
        qs = self._queries(q)
        B, H, _, _, D = qs.shape
        if self.rank == D:
            return torch.eye(D, dtype=qs.dtype, device=q.device).expand(B, H, self.queries.clusters, D, D)
        d = qs - self.queries.spread(self.queries.mean(qs)).unsqueeze(3)
        return principal_directions(d * self.queries.slots.filled.unsqueeze(-1), self.rank)

    def moments(
        self, points: Tensor, basis: Tensor, k: Tensor, v: Tensor, near: Bool[Tensor, "B Hq I J"]
    ) -> Float[Tensor, "B Hq I r Dv"]:
        """At the keys: ``sum_n w_n (b.k_n) v_n`` for the directions b of every point, over the keys not near to it.

        The weights are the softmax over those keys of this rank; the points' owner knows their mass among all ranks'.
        """
        rows, wide = k.shape[:2].numel(), statistics_dtype(k.dtype)
        p, basis_, near = (x.reshape(rows, -1, *x.shape[3:]) for x in (points.to(wide), basis, near))
        k, v = (x.to(wide).flatten(0, 1) for x in (k, v))
        label = (self.keys.slots.slot // self.keys.slots.index.shape[-1]).view(rows, 1, -1)
        far = ~near.gather(2, label.expand(-1, p.shape[1], -1)) & self.kept.view(rows, 1, -1)
        return first_moment(p, k, v, far, basis_, self.scale).view(*basis.shape[:3], -1, v.shape[-1])

    def _queries(self, q: Tensor) -> Float[Tensor, "B Hq T M D"]:
        every = torch.ones(q.shape[:3], dtype=torch.bool, device=q.device)
        return to_slots(q.to(statistics_dtype(q.dtype)), self.queries.slots, every)

    def _summaries(self, points: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (B, Hq, I, D), wide = points.shape, statistics_dtype(k.dtype)
        rows = k.shape[:2].numel()
        ks, vs = (to_slots(x.to(wide), self.keys.slots, self.kept).flatten(0, 1) for x in (k, v))
        p = points.to(wide).reshape(rows, -1, D)
        a, *means = summarise(p, ks, vs, self.keys.slots.filled.flatten(0, 1), self.scale)
        if not self.keys.whole:
            a, *means = _put_together(a, means, self.keys.owner.flatten(0, 1), self.keys.clusters)
        return tuple(x.reshape(B, Hq, I, *x.shape[2:]) for x in (a, *means))

    def _evaluate(
        self, q: Tensor, points: Tensor, mass: Tensor, k_tilted: Tensor, v_tilted: Tensor, members: Tensor | None,
        basis: Tensor | None, moment: Tensor | None, near: Fetched | None,
    ) -> Partial:  # fmt: skip
        qs, spread = self._queries(q), self.queries.spread
        wide, (B, Hq, T, M) = qs.dtype, qs.shape[:4]
        a = mass if near is None else torch.where(near.far < NEVER / 2, NEVER, mass)
        # Every head is a row here, for all that is shared in a group has been summed.
        p, a_, k_, v_ = (spread(x.to(wide)).flatten(0, 1) for x in (points, a, k_tilted, v_tilted))
        qs = qs.flatten(0, 1)
        far = far_field(qs, p, a_, k_, v_, self.scale)
        correction = exact = None
        if moment is not None:
            total = total_moment(a, moment, self.clusters)
            more = (spread(x).flatten(0, 1) for x in (total, basis))
            total, basis = more
            correction = dipole(qs - p.unsqueeze(2), total, a_, k_, v_, basis, self.scale)
        if near is not None:
            exact = self._near(qs, near, members)
        out, lse = (x.view(B, Hq, T, M, -1) for x in together(far, correction, exact))
        return from_slots(out, self.queries.slots), from_slots(lse, self.queries.slots).squeeze(-1)

    def _near(self, qs: Tensor, near: Fetched, members: Tensor) -> Partial:
        """Exact attention of every piece of queries over the members of its near clusters."""
        rows, T, M, _ = qs.shape
        nearest = self.queries.spread(near.nearest.long()).flatten(0, 1)  # [rows, T, near]
        row = torch.arange(rows, device=qs.device).view(-1, 1, 1) // (rows // members.shape[:2].numel())
        offsets = near.offsets.flatten(0, 1)
        first, last = (offsets[row, nearest.clamp(min=0) + side] for side in (0, 1))
        length = torch.where(nearest < 0, 0, last - first)
        first = first + row * members.shape[2]
        out, lse = near_field(
            qs.flatten(0, 1), members.flatten(0, 2), first.flatten(0, 1), length.flatten(0, 1), self.scale
        )
        return out.view(rows, T, M, -1), lse.view(rows, T, M)


def total_moment(
    a: Float[Tensor, "B Hq I J"], moment: Float[Tensor, "T B Hq I r Dv"], clusters: tuple[int, ...]
) -> Float[Tensor, "B Hq I r Dv"]:
    """At the queries: the first moments of T sources put together, by the mass of the clusters that each has."""
    share = torch.stack([part.logsumexp(-1) for part in a.split(clusters, -1)]).softmax(0)  # [T, B, Hq, I]
    return (share[..., None, None] * moment).sum(0)


def _put_together(
    a: Float[Tensor, "R I T"], means: list[Float[Tensor, "R I T D"]], owner: Tensor, clusters: int
) -> tuple[Tensor, ...]:
    """The summaries of clusters from those of their pieces: a softmax over the pieces of each."""
    share, mass = softmax_by_owner(a, owner, clusters)
    added = []
    for x in means:
        index = owner[:, None, :, None].expand_as(x)
        zero = x.new_zeros(*mass.shape, x.shape[-1])
        added.append(zero.scatter_add(2, index, share.unsqueeze(-1) * x))
    return mass, *added
