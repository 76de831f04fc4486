"""What a clustered cache read, step by step: for a panel, a notebook, a doubt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.decoding.store.state import State
from multipole_lab.printing import one_line
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    from multipole_lab.decoding.store.hierarchy import Hierarchy


@dataclass(frozen=True)
class TracedStep:
    """One decoding step of one layer, as arrays; C counts the clusters of keys that the layer had then.

    Attributes
    ----------
    layer : its number in the model.
    length : N, the keys in the cache, the new one included; the query stands at position N - 1.
    sinks : [B, S] positions in the text of the sinks, which are exact.
    tail : position in the text from which on all keys are exact: the recent window and what has not joined.
    chosen : [B, Hk, M] positions of the keys of opened clusters, summed exactly; -1 for a place left empty.
    looked : [B, Hk, C] whether a cluster's own centroid was looked at. With two levels the coarse ones decide.
    opened : [B, Hk, C] whether a cluster was opened, so that its members are exact.
    share : [B, Hk, C] the estimated share of the softmax mass, mean over the group's queries; NaN where not looked.
    tokens : [B, Hk, C] keys in each cluster.
    """

    layer: int
    length: int
    sinks: Int[np.ndarray, "B S"]
    tail: int
    chosen: Int[np.ndarray, "B Hk M"]
    looked: Bool[np.ndarray, "B Hk C"]
    opened: Bool[np.ndarray, "B Hk C"]
    share: Float[np.ndarray, "B Hk C"]
    tokens: Int[np.ndarray, "B Hk C"]

    __repr__ = one_line

    def exact(self) -> Bool[np.ndarray, "B Hk N"]:
        """Which keys were summed exactly, in the order of the text. All others counted through centroids."""
        B, Hk, _ = self.chosen.shape
        read = np.zeros((B, Hk, self.length + 1), dtype=bool)  # the last place takes the -1
        np.put_along_axis(read, self.chosen, True, -1)
        np.put_along_axis(read, np.broadcast_to(self.sinks[:, None], (B, Hk, self.sinks.shape[1])), True, -1)
        read[..., self.tail :] = True
        return read[..., : self.length]


@dataclass
class Trace:
    """The steps taken while ``MultipoleCache.trace`` was on, in the order in which they were taken.

    What they say is what made the output: the kernels or the torch reference.

    Attributes
    ----------
    layers : which layers are recorded; None for all.
    steps : what they did: one entry per layer and new token.
    """

    layers: Collection[int] | None = None
    steps: list[TracedStep] = field(default_factory=list)

    __repr__ = one_line

    def of(self, layer: int) -> list[TracedStep]:
        """The steps of one layer."""
        return [one for one in self.steps if one.layer == layer]

    def wants(self, layer: int) -> bool:
        """Whether a layer is recorded."""
        return self.layers is None or layer in self.layers


class Seen:
    """What ``decode_step`` says of the clusters that it looked at and opened; tensors in rows, R = B * Hk."""

    def __init__(self) -> None:
        self.parts: tuple[Tensor, ...] | None = None

    def note(
        self,
        state: State,
        looked: tuple[Tensor, Tensor, Tensor] | None,
        share: Float[Tensor, "R L"],
        index: Int[Tensor, "R M"],
        taken: Bool[Tensor, "R M"],
        opened: Bool[Tensor, "R L"],
    ) -> None:
        """``looked`` is the choice on the coarse level, whose places are those of ``share``; None for one level."""
        R, C = share.shape[0], state.levels[0].size
        if looked is not None:  # from places in the list to clusters; a spare column takes the empty places
            place = torch.where(looked[1], looked[0], C)
            spread = share.new_full((R, C + 1), torch.nan).scatter(1, place, share)
            opened = opened.new_zeros(R, C + 1).scatter(1, place, opened)[:, :C]
            reached = opened.new_zeros(R, C + 1).scatter(1, place, True)[:, :C]
            share = spread[:, :C]
        else:
            reached = torch.ones_like(opened)
        self.parts = torch.where(taken, index, -1), reached, opened, share


def traced(layer: int, h: Hierarchy, seen: Seen, group: int) -> TracedStep:
    """One step's record; ``group`` is G, the queries that share a row."""
    B, Hk = h.keys.buffer.shape[:2]
    if seen.parts is None:  # nothing is clustered yet: everything is tail
        none = np.zeros((B, Hk, 0))
        empty, no = none.astype(np.int64), none.astype(bool)
        return TracedStep(layer, h.length, empty[:, 0], 0, empty, no, no, none.astype(np.float32), empty)
    index, looked, opened, share = (x.unflatten(0, (B, Hk)).cpu() for x in seen.parts)
    place = h.position.view().long().cpu()
    chosen = torch.where(index < 0, -1, place.gather(2, index.clamp(min=0)))
    return TracedStep(
        layer, h.length, place[:, 0, : h.sinks].numpy(), h.clustered, chosen.numpy(), looked.numpy(),
        opened.numpy(), (share / group).float().numpy(), h.levels[0].tokens.view().cpu().numpy().copy(),
    )  # fmt: skip


@suggesting
def labels(h: Hierarchy, level: int = 0) -> Int[np.ndarray, "B Hk N"]:
    """The cluster of every key in the order of the text; -1 for sinks, tail and padding.

    Parameters
    ----------
    h : the storage of one layer, ``cache.layers[i].hierarchy``.
    level : 0 for the clusters of keys, 1 for the clusters of those.

    Raises
    ------
    ValueError : a level that the cache does not have.
    """
    B, Hk = h.keys.buffer.shape[:2]
    found = np.full((B, Hk, h.length), -1)
    if not h.blocks:
        return found
    if not 0 <= level < len(h.levels):
        raise ValueError(f"level is {level}; this cache has {len(h.levels)} levels, counted from 0")
    fine = _members(h.levels[0], h.clustered)
    if level == 1:
        coarse = _members(h.levels[1], h.levels[0].keys.length)
        fine = np.where(fine < 0, -1, np.take_along_axis(coarse, fine.clip(min=0), -1))
    place = h.position.view()[:, :, : h.clustered].long().cpu().numpy()
    np.put_along_axis(found, place, fine, -1)
    return found


def _members(level: object, places: int) -> Int[np.ndarray, "B Hk places"]:
    """For every place of the level below, the cluster of this level that holds it."""
    first, members = (x.view().long().cpu() for x in (level.first, level.members))
    held = torch.zeros(*first.shape[:2], places, dtype=torch.int64)
    cluster = torch.arange(first.shape[2]).expand_as(first)
    start = torch.where(members > 0, first, 0)
    held.scatter_reduce_(
        2, start, torch.where(members > 0, cluster, 0), "amax"
    )  # each at its first member ...
    held = held.cummax(-1).values  # ... and on to the next; clusters are stored in the order of their members
    last = first.gather(2, held) + members.gather(2, held)
    at = torch.arange(places).expand_as(held)
    return torch.where((at < last) & (at >= first.gather(2, held)), held, -1).numpy()
