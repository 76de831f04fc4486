"""Clusters of any size in memory linear in the sequence: large ones lie in several pieces of bounded length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.clusters.slots import Slots


@dataclass(frozen=True)
class Pieces:
    """The members of C clusters in T pieces of at most M.

    With M at least the mean size, C + N // M pieces are enough for any sizes: no more than 3 N slots. Where M bounds
    the sizes, a piece is a cluster.

    Attributes
    ----------
    slots : of the pieces, [B, H, T, M].
    owner : [B, H, T]. The cluster of each piece; the last one for a piece without members.
    clusters : C.
    """

    slots: Slots
    owner: Int[Tensor, "B H T"]
    clusters: int

    @classmethod
    def of(cls, order: Int[Tensor, "B H N"], offsets: Int[Tensor, "B H C1"], largest: int | None) -> Pieces:
        """Clusters as order and offsets; ``largest`` bounds their sizes, None for no bound."""
        N, C = order.shape[-1], offsets.shape[-1] - 1
        size = max(1, 2 * -(-N // C)) if largest is None else largest
        counts = offsets.diff(dim=-1)
        of_cluster = -(-counts // size) if largest is None else torch.ones_like(counts)
        last = of_cluster.cumsum(-1)  # pieces up to each cluster's end
        pieces = C + N // size if largest is None else C
        piece = torch.arange(pieces, device=order.device).expand(*order.shape[:2], pieces).contiguous()
        owner = torch.searchsorted(last, piece, right=True)
        real, owner = owner < C, owner.clamp(max=C - 1)
        first = pad(last, (1, 0))  # of each cluster's pieces
        start = offsets.gather(-1, owner) + (piece - first.gather(-1, owner)) * size
        place = start.unsqueeze(-1) + torch.arange(size, device=order.device)  # [B, H, T, M]
        filled = real.unsqueeze(-1) & (place < offsets.gather(-1, owner + 1).unsqueeze(-1))
        member = order.gather(-1, place.clamp(max=N - 1).flatten(-2)).view(place.shape)
        # The inverse: the slot of every vector, 0 for padding.
        sorted_place = torch.arange(N, device=order.device).expand_as(order).contiguous()
        label = torch.searchsorted(offsets.contiguous(), sorted_place, right=True) - 1
        kept = sorted_place < offsets[..., -1:]
        label = label.clamp(max=C - 1)
        inside = sorted_place - offsets.gather(-1, label)
        slot = (first.gather(-1, label) + inside // size) * size + inside % size
        slot = torch.zeros_like(order).scatter_(-1, order, torch.where(kept, slot, 0))
        return cls(Slots(torch.where(filled, member, 0), filled, slot), owner, C)

    @property
    def whole(self) -> bool:
        """Whether every piece is a cluster."""
        return self.owner.shape[-1] == self.clusters

    def mean(self, x: Float[Tensor, "B H T M D"]) -> Float[Tensor, "B H C D"]:
        """The mean of every cluster's members, from x in slots; zero for an empty one."""
        weights = self.slots.filled.to(x.dtype)
        sums = (weights.unsqueeze(-2) @ x).squeeze(-2)
        counts = weights.sum(-1)
        return self.added(sums) / self.added(counts.unsqueeze(-1)).clamp(min=1)

    def added(self, x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H C D"]:
        """Sums over the pieces of every cluster."""
        if self.whole:
            return x
        sums = x.new_zeros(*x.shape[:2], self.clusters, x.shape[-1])
        return sums.scatter_add(2, self.owner.unsqueeze(-1).expand_as(x), x)

    def spread(self, x: Tensor) -> Tensor:
        """What every cluster has, x [B, H, C, ...], for each of its pieces, [B, H, T, ...]."""
        if self.whole:
            return x
        B, H, T = self.owner.shape
        head = torch.arange(B * H, device=x.device).view(B, H, 1) * self.clusters
        return x.flatten(0, 2).index_select(0, (self.owner + head).flatten()).view(B, H, T, *x.shape[3:])
