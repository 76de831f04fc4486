"""Clusters laid out in slots: every cluster a row of the same length, so that a sum over clusters is one product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.clusters import Clusters


@dataclass(frozen=True)
class Slots:
    """Where the members of every cluster are, M slots a cluster.

    Attributes
    ----------
    index : [B, H, C, M] int64. The member's row in x.view(B * H * N, D); an empty slot repeats the row's first.
    filled : [B, H, C, M]. Which slots hold a member.
    slot : [B, H, N] int64. The inverse: the slot of every vector in the flattened [B * H * C * M].
    """

    index: Int[Tensor, "B H C M"]
    filled: Bool[Tensor, "B H C M"]
    slot: Int[Tensor, "B H N"]

    @classmethod
    def of(cls, clusters: Clusters, size: int) -> Slots:
        """Lay clusters of at most ``size`` members out; no step depends on the data's values."""
        B, H, N = clusters.labels.shape
        C = clusters.size
        device = clusters.labels.device
        start = clusters.offsets[..., :C]
        position = torch.arange(size, device=device)
        filled = position < clusters.counts.unsqueeze(-1)  # [B, H, C, M]
        member = (start.unsqueeze(-1) + position).clamp(max=N - 1)
        member = clusters.order.gather(-1, member.flatten(-2)).view(B, H, C, size)
        head = torch.arange(B * H, device=device).view(B, H, 1)
        index = torch.where(filled, member, 0) + head.unsqueeze(-1) * N

        rank = torch.empty_like(clusters.order)  # a vector's place in the sorted order
        rank.scatter_(-1, clusters.order, torch.arange(N, device=device).expand(B, H, N))
        label = clusters.labels.clamp(min=0)
        slot = label * size + rank - start.gather(-1, label)
        slot = torch.where(clusters.labels < 0, 0, slot) + head * (C * size)
        return cls(index, filled, slot)


class _Rows(torch.autograd.Function):
    """Rows of x by index, whose gradient is again a gather: every row goes to at most one place."""

    @staticmethod
    def forward(ctx, x, index, inverse, kept):
        ctx.save_for_backward(inverse, kept)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad):
        inverse, kept = ctx.saved_tensors
        dx = grad.index_select(0, inverse)
        return (dx if kept is None else dx * kept.unsqueeze(-1)), None, None, None


def to_slots(x: Float[Tensor, "B H N D"], slots: Slots, kept: Bool[Tensor, "B H N"] | None = None):
    """x in slots, [B, H, C, M, D]; empty slots hold some other vector. ``kept`` is False for padding."""
    B, H, C, M = slots.index.shape
    D = x.shape[-1]
    rows = _Rows.apply(
        x.reshape(-1, D),
        slots.index.view(-1),
        slots.slot.view(-1),
        None if kept is None else kept.reshape(-1),
    )
    return rows.view(B, H, C, M, D)


def from_slots(x: Float[Tensor, "B H C M D"], slots: Slots) -> Float[Tensor, "B H N D"]:
    """The inverse of ``to_slots``: every vector back at its position."""
    D = x.shape[-1]
    rows = _Rows.apply(x.reshape(-1, D), slots.slot.view(-1), slots.index.view(-1), slots.filled.view(-1))
    return rows.view(*slots.slot.shape, D)
