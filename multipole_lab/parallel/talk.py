"""The messages of context-parallel MuSe: who asks whom for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.parallel.agreement import Parts
from multipole_lab.parallel.channel import Channel, Message
from multipole_lab.parallel.fetching import Fetched, placed, rows_of, wanted


@dataclass(frozen=True)
class Talk:
    """Who says what to whom, in a call.

    Attributes
    ----------
    shape : B, Hq, Hk, D and Dv of the call.
    points, clusters : clusters of the queries and of the keys of each rank.
    sinks : how many leading keys of the first rank are sent, to the ranks ``listeners``.
    """

    channel: Channel
    parts: Parts
    shape: tuple[int, int, int, int, int]
    points: tuple[int, ...]
    clusters: tuple[int, ...]
    sinks: int
    listeners: tuple[int, ...]

    def to_keys(
        self,
        kind: str,
        parts: Mapping[int, Sequence[Tensor]],
        tails: Sequence[Sequence[int]],
        likes: Sequence[Tensor],
    ) -> Message:
        """From the queries to the owners of the keys they see; [B, Hq, I_s, *tail] of every tail comes from every
        asker s."""
        B, Hq = self.shape[:2]
        shapes = {s: [(B, Hq, self.points[s], *tail) for tail in tails] for s in self.parts.askers}
        return self.channel.start(kind, parts, shapes, likes)

    def to_queries(
        self,
        kind: str,
        parts: Mapping[int, Sequence[Tensor]],
        tails: Sequence[Sequence[int]],
        likes: Sequence[Tensor],
    ) -> Message:
        """The way back; [B, Hq, I, J_t, *tail] of every tail comes from every source t."""
        (B, Hq), points = self.shape[:2], self.points[self.channel.rank]
        shapes = {t: [(B, Hq, points, self.clusters[t], *tail) for tail in tails] for t in self.parts.sources}
        return self.channel.start(kind, parts, shapes, likes)

    def own_first(self, ranks: Sequence[int]) -> list[int]:
        """Ranks with this one, if it is among them, before the others."""
        return sorted(ranks, key=lambda r: r != self.channel.rank)


def fetch(
    talk: Talk, chosen: tuple[Tensor, Tensor] | None, k_sorted: tuple[Tensor, Tensor], k: Tensor, v: Tensor
) -> tuple[Fetched | None, dict[int, Tensor]]:
    """Have the members of the near clusters of all sources sent, each cluster once a head.

    ``chosen`` are the near clusters and the far masses, None on a rank without sources. Returns what came, and which
    own rows each asker got.
    """
    channel, sources, askers = talk.channel, talk.parts.sources, talk.parts.askers
    order, offsets = k_sorted
    B, _, Hk, _, _ = talk.shape
    held = offsets.diff(dim=-1).to(torch.int32)
    shapes = {t: (B, Hk, talk.clusters[t]) for t in sources}
    sizes = channel.swap("cluster sizes", dict.fromkeys(askers, held), shapes, held)
    want = {}
    if chosen is not None:
        split = [talk.clusters[t] for t in sources]
        want = dict(zip(sources, wanted(chosen[0], Hk, sum(split)).split(split, 2), strict=True))
    shapes = dict.fromkeys(askers, (B, Hk, talk.clusters[channel.rank]))
    flags = torch.empty(0, dtype=torch.uint8, device=k.device)
    asked = channel.swap("near choice", want, shapes, flags)
    rows = {s: rows_of(flag.bool(), order, offsets, k.shape[2]) for s, flag in asked.items()}
    both = [x.reshape(-1, x.shape[-1]) for x in (k, v)]
    parts = {s: torch.cat([x.index_select(0, own) for x in both], -1) for s, own in rows.items()}
    shapes = {t: (int(sizes[t][want[t]].sum()), sum(talk.shape[3:])) for t in sources}
    heard = channel.swap("near keys", parts, shapes, k)
    near = None
    if chosen is not None:
        near = placed(*chosen, list(want.values()), list(sizes.values()), list(heard.values()))
    return near, rows


def broadcast_sinks(talk: Talk, k: Tensor, v: Tensor, kept: Tensor | None) -> Tensor:
    """The first keys of the first rank, their values, and 1 where they count: [B, Hk, sinks, F + 1] for listeners,
    nothing for others. ``kept`` [B, sinks], on the first rank, says which are no padding; None for all."""
    B, _, Hk, D, Dv = talk.shape
    first = (slice(None), slice(None), slice(talk.sinks))
    parts = {}
    if talk.channel.rank == 0:
        counts = torch.ones_like(k[first][..., :1])
        if kept is not None:
            counts = counts * kept[:, None, :, None]
        parts = dict.fromkeys(talk.listeners, torch.cat([k[first], v[first], counts], -1))
    shapes = {0: (B, Hk, talk.sinks, D + Dv + 1)} if talk.channel.rank in talk.listeners else {}
    return talk.channel.swap("sinks", parts, shapes, k).get(0, k.new_empty(0))


def return_sinks(talk: Talk, dsinks: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Add what every listener's queries say of the sinks to the first rank's dk and dv, in place."""
    B, _, Hk, D, Dv = talk.shape
    parts = {0: dsinks[..., :-1]} if talk.channel.rank in talk.listeners else {}
    shapes = dict.fromkeys(talk.listeners, (B, Hk, talk.sinks, D + Dv)) if talk.channel.rank == 0 else {}
    for part in talk.channel.swap("sinks gradient", parts, shapes, dk).values():
        for grad, own in zip((dk, dv), part.split([D, Dv], -1), strict=True):
            grad[:, :, : talk.sinks] += own
