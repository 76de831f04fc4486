"""Near clusters that every query chooses for itself: pairs of a query and a cluster, summed cluster by cluster."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.clusters.slots import Slots, from_slots, to_slots
from multipole_lab.attention.expansion import near_field
from multipole_lab.attention.partials import Partial, merge

# Queries that one copy of a cluster's keys serves at most.
TILE = 64


def tile_size(queries: int, near: int, clusters: int) -> int:
    """Queries of a tile: no more than a cluster is chosen by in the mean, so that tiles are half full at least."""
    return min(TILE, max(1, queries * near // clusters))


def own_near_field(
    q: Float[Tensor, "R n D"],
    chosen: Int[Tensor, "R n near"],
    ks: Float[Tensor, "R J Mk D"],
    vs: Float[Tensor, "R J Mk Dv"],
    filled: Bool[Tensor, "R J Mk"],
    s: float,
) -> Partial:
    """Exact attention of every query over the clusters that it chose: out [R, n, Dv] and lse [R, n].

    All queries that chose a cluster meet its keys together, in tiles; a query's own parts merge.
    """
    R, n, near = chosen.shape
    J = ks.shape[1]
    tiles, cluster = Slots.in_tiles(chosen.reshape(R, 1, -1), J, tile_size(n, near, J))
    pairs = q.repeat_interleave(near, dim=1).unsqueeze(1)
    every = torch.ones(pairs.shape[:3], dtype=torch.bool, device=q.device)
    asking = to_slots(pairs, tiles, every).squeeze(1)
    out, lse = near_field(asking, ks, vs, filled, cluster.squeeze(1).unsqueeze(-1), s)
    out = from_slots(out.unsqueeze(1), tiles).view(R, n, near, -1)
    lse = from_slots(lse.unsqueeze(1).unsqueeze(-1), tiles).view(R, n, near)
    return merge(list(zip(out.unbind(2), lse.unbind(2), strict=True)))
