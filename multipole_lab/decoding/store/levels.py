"""The buffers of one level of clusters, and how a block's clusters start and are written back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.decoding.store.blocks import Part, take
from multipole_lab.decoding.store.storage import Growing


class Block(NamedTuple):
    """Where a block's keys lie in the storage, and where its clusters start on each level."""

    start: int
    end: int
    clusters: tuple[int, ...]


@dataclass
class LevelStore:
    """The growing buffers of one level; fields as in ``state.Level``."""

    keys: Growing
    values: Growing
    tokens: Growing
    first: Growing
    members: Growing
    spread: Growing

    @staticmethod
    def like(keys: Growing, values: Growing) -> LevelStore:
        """Empty buffers for clusters of these keys and values."""
        means = (Growing(x.buffer.shape, x.buffer.dtype, x.buffer.device) for x in (keys, values))
        counts = (numbers_like(keys, torch.int32) for _ in range(3))
        return LevelStore(*means, *counts, numbers_like(keys, torch.float32))

    def parts(self) -> tuple[Growing, ...]:
        """All buffers: in the order of ``state.Level``, then the spread."""
        return self.keys, self.values, self.tokens, self.first, self.members, self.spread


def numbers_like(store: Growing, dtype: torch.dtype) -> Growing:
    """An empty buffer for one number per vector, [B, Hk, n]."""
    return Growing((*store.buffer.shape[:2], 0), dtype, store.buffer.device)


def sinks_first(valid: Bool[Tensor, "B n"], sinks: int) -> Int[Tensor, "B n"]:
    """The order in which the first ``sinks`` valid keys of each text come first, and all others as they were."""
    sink = valid & (valid.cumsum(-1) <= sinks)
    return (~sink).to(torch.uint8).sort(dim=-1, stable=True).indices


def seeds_of(
    x: Float[Tensor, "R n D"],
    old: Float[Tensor, "R C D"],
    clusters: int,
    known: int,
    valid: Bool[Tensor, "B Hk n"] | None,
    seed: int,
) -> Float[Tensor, "R C2 D"]:
    """The centroids that a block has; for those it lacks, a random key from each of the equal parts of the new ones."""
    R, n, _ = x.shape
    missing = clusters - old.shape[1]
    if missing <= 0:
        return old[:, :clusters]
    # The generator is the CPU's on every device, so that one seed gives one result.
    at = torch.rand(missing, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    at = ((torch.arange(missing) + at) / missing).to(x.device)
    if valid is None:
        index = (at * (n - known)).long().clamp(max=n - known - 1).expand(R, -1)
    else:  # the same among the valid ones; a row with too few repeats some, whose clusters stay empty
        rows = valid.flatten(0, 1)[:, known:]
        there = (~rows).to(torch.uint8).sort(dim=-1, stable=True).indices
        index = there.gather(1, (at * rows.sum(-1, keepdim=True)).long().clamp(max=n - known - 1))
    return torch.cat([old, take(x, known + index)], 1)


def write_part(
    level: LevelStore, part: Part, first: int, base: int, shape: tuple[int, int], shrink: float
) -> None:
    """Write a block's clusters over those that it had on a level."""
    # half the variance, shrunk: what ``masses`` multiplies with s^2 |q|^2
    part = part._replace(first=part.first + base, spread=shrink / 2 * part.spread)
    for store, fresh in zip(level.parts(), part, strict=True):
        store.truncate(first)
        store.append(fresh.unflatten(0, shape))
