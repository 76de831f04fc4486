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
    valid: Bool[Tensor, "R n"] | None,
    seeds: list[int],
) -> Float[Tensor, "R C2 D"]:
    """The centroids that a block has; for those it lacks, a random key from each of the equal parts of the new ones.

    ``seeds`` has one number a block: row i is of block ``i % len(seeds)``.
    """
    R, n, _ = x.shape
    missing = clusters - old.shape[1]
    if missing <= 0:
        return old[:, :clusters]

    # The CPU's generator on every device, so that one seed gives one result; the copy waits for nothing.
    def drawn(seed: int) -> Tensor:
        g = torch.Generator("cpu").manual_seed(seed)
        return torch.rand(missing, generator=g, dtype=torch.float64, device="cpu")

    at = torch.arange(missing, device="cpu") + torch.stack([drawn(seed) for seed in seeds])
    at = (at / missing).to(x.device, non_blocking=True)
    at = at.repeat(R // len(seeds), 1)
    if valid is None:
        index = (at * (n - known)).long().clamp(max=n - known - 1)
    else:  # the same among the valid ones; a row with too few repeats some, whose clusters stay empty
        rows = valid[:, known:]
        there = (~rows).to(torch.uint8).sort(dim=-1, stable=True).indices
        index = there.gather(1, (at * rows.sum(-1, keepdim=True)).long().clamp(max=n - known - 1))
    return torch.cat([old, take(x, known + index)], 1)


def numbers_before(starts: list[int], device: torch.device) -> Int[Tensor, " blocks"]:
    """Where the members of every block start: equally far apart, so that nothing is copied from the host."""
    step = starts[1] - starts[0] if len(starts) > 1 else 1
    return torch.arange(starts[0], starts[0] + step * len(starts), step, device=device, dtype=torch.int32)


def write_part(
    level: LevelStore,
    part: Part,
    first: int,
    base: Int[Tensor, " blocks"],
    shape: tuple[int, int],
    shrink: float,
) -> None:
    """Write the clusters of the last blocks over those that they had on a level.

    Parameters
    ----------
    part : a row for every block of every key/value head, the blocks of a head one after the other.
    first : where the clusters of the first of these blocks are in the level.
    base : what the members of every block are counted from.
    shape : B and Hk. shrink : see ``Settings.spread``.
    """
    count = base.numel()
    # half the variance, shrunk: what ``masses`` multiplies with s^2 |q|^2
    part = part._replace(
        first=part.first + base.repeat(shape[0] * shape[1]).unsqueeze(1), spread=shrink / 2 * part.spread
    )
    for store, fresh in zip(level.parts(), part, strict=True):
        store.truncate(first)
        store.append(fresh.unflatten(0, (*shape, count)).flatten(2, 3))
