"""Which query and which key is in which cluster, as a formula takes it: in slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.clusters.slots import Slots, from_slots, to_slots
from multipole_lab.attention.expansion import NEVER, expansion_points, principal_directions
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype


@dataclass(frozen=True)
class Assignments:
    """The clusters of queries and keys, in slots; ``kept`` [B, Hk, Nk] is False for keys that count in no cluster.

    All query heads of a group see the same keys, so their clusters are one list: I = G * C clusters in each of the
    R = B * Hk rows, beside J clusters of keys.
    """

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

    def queries_and_points(
        self, q: Float[Tensor, "B Hq Nq D"]
    ) -> tuple[Float[Tensor, "R I Mq D"], Float[Tensor, "R I D"]]:
        """The queries in slots and the means of their clusters, the expansion points."""
        all_kept = torch.ones(q.shape[:3], dtype=torch.bool, device=q.device)
        qs = to_slots(q.to(statistics_dtype(q.dtype)), self.queries, all_kept)
        qs = qs.view(*self.members.shape, q.shape[-1])
        return qs, expansion_points(qs, self.members)

    def directions(self, d: Float[Tensor, "R I Mq D"], rank: int) -> Float[Tensor, "R I D r"]:
        """The directions that a dipole of the displacements is kept along; all, without rounding, where rank is D."""
        R, I, _, D = d.shape
        if rank == D:
            return torch.eye(D, dtype=d.dtype, device=d.device).expand(R, I, D, D)
        return principal_directions(d * self.members.unsqueeze(-1), rank)

    def keys_and_values(
        self, k: Float[Tensor, "B Hk Nk D"], v: Float[Tensor, "B Hk Nk Dv"]
    ) -> tuple[Float[Tensor, "R J Mk D"], Float[Tensor, "R J Mk Dv"]]:
        """Keys and values in slots."""
        ks, vs = (to_slots(x.to(statistics_dtype(x.dtype)), self.keys, self.kept) for x in (k, v))
        return ks.flatten(0, 1), vs.flatten(0, 1)

    def of_queries(self, x: Int[Tensor, "R I Mq n"]) -> Int[Tensor, "R N n"]:
        """Numbers in the slots of the queries at the positions of those, all query heads of a row as one list."""
        rows = x.reshape(*self.queries.index.shape[:2], -1, x.shape[-1])
        slot = self.queries.slot.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])
        return rows.gather(2, slot).reshape(len(x), -1, x.shape[-1])

    def far_keys(self, a_far: Float[Tensor, "R I J"]) -> Bool[Tensor, "R I Nk"]:
        """Which keys are in a cluster of some mass, seen from each query cluster."""
        R, I, J = a_far.shape
        M = self.keys.index.shape[-1]
        label = (self.keys.slot // M % J).view(R, 1, -1)
        far = (a_far.detach() > NEVER).gather(-1, label.expand(R, I, -1))
        return far & self.kept.reshape(R, 1, -1)

    def back(self, out: Tensor, lse: Tensor) -> Partial:
        """Results in slots at their positions again, [B, Hq, Nq, Dv] and [B, Hq, Nq]."""
        shape = self.queries.index.shape
        out = from_slots(out.reshape(*shape, -1), self.queries)
        return out, from_slots(lse.reshape(*shape, 1), self.queries).squeeze(-1)
