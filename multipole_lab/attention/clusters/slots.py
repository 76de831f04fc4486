"""Clusters laid out in slots: every cluster a row of the same length, so that a sum over clusters is one product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.calls.transforms import has_values, transformed
from multipole_lab.clustering.clusters import counting_sort
from multipole_lab.clustering.kmeans import count_members


class Labels(NamedTuple):
    """A partition as it is found, before it is laid out in slots.

    Attributes
    ----------
    of : [B, H, N] int64. The cluster of every vector; -1 for padding.
    clusters : C.
    largest : the members that a cluster has at most; None where only the labels say it.
    """

    of: Int[Tensor, "B H N"]
    clusters: int
    largest: int | None


@dataclass(frozen=True)
class Slots:
    """Where the members of every cluster are, M slots a cluster.

    Attributes
    ----------
    index : [B, H, C, M] int64. The member's position in its sequence; an empty slot names position 0.
    filled : [B, H, C, M]. Which slots hold a member.
    slot : [B, H, N] int64. The inverse: each vector's slot among the C * M of its head; 0 for padding.
    """

    index: Int[Tensor, "B H C M"]
    filled: Bool[Tensor, "B H C M"]
    slot: Int[Tensor, "B H N"]

    @classmethod
    def laid_out(cls, labels: Labels) -> Slots:
        """As many slots a cluster as the largest one has.

        Where no value may be looked at (meta and fake tensors, ``torch.func.vmap``), at most as many as vectors.
        """
        own, clusters, size = labels
        if size is None and has_values(own):
            size = max(1, int(count_members(own.flatten(0, 1), clusters).max()))
        N = own.shape[-1]
        return cls.of(own, clusters, N if size is None else min(size, N))

    @classmethod
    def of(cls, labels: Int[Tensor, "B H N"], clusters: int, size: int) -> Slots:
        """Lay clusters of at most ``size`` members out; no step depends on the labels' values."""
        N = labels.shape[-1]
        order, offsets = counting_sort(labels, clusters)
        start, counts = offsets[..., :clusters], offsets.diff(dim=-1)
        position = torch.arange(size, device=labels.device)
        filled = position < counts.unsqueeze(-1)  # [B, H, C, M]
        member = (start.unsqueeze(-1) + position).clamp(max=N - 1)
        member = order.gather(-1, member.flatten(-2)).view(filled.shape)
        index = torch.where(filled, member, 0)
        slot = labels.clamp(min=0) * size + _ranks(labels, order, start)
        return cls(index, filled, torch.where(labels < 0, 0, slot))

    @classmethod
    def in_tiles(
        cls, labels: Int[Tensor, "B H N"], clusters: int, size: int
    ) -> tuple[Slots, Int[Tensor, "B H T"]]:
        """Clusters of any sizes in tiles of ``size`` slots: the tiles, and the cluster that each belongs to.

        A cluster has as many tiles as it fills. How many there are at most, T, depends on no label; every vector has
        one.
        """
        order, offsets = counting_sort(labels, clusters)
        filled = -(-offsets.diff(dim=-1) // size)
        ends = filled.cumsum(-1)
        own = (ends - filled).gather(-1, labels) + _ranks(labels, order, offsets[..., :clusters]) // size
        tiles = min(labels.shape[-1] // size + clusters, labels.shape[-1])
        behind = torch.arange(tiles, device=labels.device) >= ends.unsqueeze(-1)  # [B, H, C, T]
        return cls.of(own, tiles, size), behind.sum(-2).clamp(max=clusters - 1)


def _ranks(
    labels: Int[Tensor, "B H N"], order: Int[Tensor, "B H N"], start: Int[Tensor, "B H C"]
) -> Int[Tensor, "B H N"]:
    """The place of every vector among the members of its cluster, in the sorted order."""
    rank = torch.empty_like(order)
    rank.scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand(order.shape))
    return rank - start.gather(-1, labels.clamp(min=0))


class _Rows(torch.autograd.Function):
    """Rows of x [B, H, n, D] by index [B, H, m], whose gradient is again a gather.

    Every row goes to at most one place, which ``inverse`` names where ``kept`` is True.
    """

    @staticmethod
    def forward(ctx, x, index, inverse, kept):
        ctx.save_for_backward(inverse, kept)
        return _gather(x, index)

    @staticmethod
    def backward(ctx, grad):
        inverse, kept = ctx.saved_tensors
        return torch.where(kept.unsqueeze(-1), _gather(grad, inverse), 0.0), None, None, None


def _rows(x: Tensor, index: Tensor, inverse: Tensor, kept: Tensor) -> Tensor:
    return _gather(x, index) if transformed() else _Rows.apply(x, index, inverse, kept)


def _gather(x: Tensor, index: Tensor) -> Tensor:
    # One flat index_select copies whole rows; torch.gather would look an index up for every number.
    B, H, n, D = x.shape
    first = torch.arange(B * H, device=x.device).view(B, H, 1) * n
    return x.reshape(-1, D).index_select(0, (index + first).view(-1)).view(B, H, -1, D)


def to_slots(
    x: Float[Tensor, "B H N D"], slots: Slots, kept: Bool[Tensor, "B H N"]
) -> Float[Tensor, "B H C M D"]:
    """x in slots; an empty slot holds the vector at position 0. ``kept`` is False for padding."""
    rows = _rows(x, slots.index.flatten(-2), slots.slot, kept)
    return rows.view(*slots.index.shape, x.shape[-1])


def from_slots(x: Float[Tensor, "B H C M D"], slots: Slots) -> Float[Tensor, "B H N D"]:
    """The inverse of ``to_slots``: every vector back at its position."""
    return _rows(x.flatten(-3, -2), slots.slot, slots.index.flatten(-2), slots.filled.flatten(-2))
