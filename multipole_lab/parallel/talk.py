"""The messages of context-parallel MuSe: who asks whom for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.parallel.agreement import Parts
from multipole_lab.parallel.channel import Channel
from multipole_lab.parallel.stages import Near, moments, placed, select_near


@dataclass(frozen=True)
class Talk:
    """All that an exchange needs besides the tensors.

    Attributes
    ----------
    assignments : the clusters of this rank's queries and keys.
    points, clusters : query clusters a row (I_s, of all heads of a group) and key clusters (J_t) of each rank.
    scale, near : as in ``MuSe``.
    rank : directions of the dipole, 0 for none.
    sinks : how many leading keys of the first rank are sent, to the ranks ``listeners``.
    sinks_kept : on the first rank, which of them are no padding, [B, sinks]; None for all.
    """

    channel: Channel
    parts: Parts
    assignments: Assignments
    points: tuple[int, ...]
    clusters: tuple[int, ...]
    scale: float
    near: int
    rank: int
    sinks: int
    sinks_kept: Tensor | None
    listeners: tuple[int, ...]

    def to_keys(self, kind: str, parts: Mapping[int, Tensor], *tail: int, like: Tensor) -> dict[int, Tensor]:
        """From the queries to the owners of the keys they see; [R, I_s, *tail] comes from every asker s."""
        rows = self.assignments.members.shape[0]
        shapes = {s: (rows, self.points[s], *tail) for s in self.parts.askers}
        return self.channel.swap(kind, parts, shapes, like)

    def to_queries(
        self, kind: str, parts: Mapping[int, Tensor], *tail: int, like: Tensor
    ) -> dict[int, Tensor]:
        """The way back; [R, I, J_t, *tail] comes from every source t."""
        rows, points = self.assignments.members.shape[:2]
        shapes = {t: (rows, points, self.clusters[t], *tail) for t in self.parts.sources}
        return self.channel.swap(kind, parts, shapes, like)


def fetch(
    talk: Talk, summary: Tensor | None, kv: Tensor
) -> tuple[Near | None, dict[int, Tensor], dict[int, Tensor]]:
    """Choose the near clusters of all sources and have their members sent, each cluster once a row.

    Returns the near clusters, the members [n_t, F] from each source, and which of the own slots each asker asked for.
    """
    channel, sources, askers = talk.channel, talk.parts.sources, talk.parts.askers
    filled, own = talk.assignments.filled, talk.clusters[talk.channel.rank]
    rows = filled.shape[0]
    held = filled.sum(-1, dtype=torch.int32)
    shapes = {t: (rows, talk.clusters[t]) for t in sources}
    sizes = channel.swap("cluster sizes", dict.fromkeys(askers, held), shapes, held)
    nearest, wanted = None, {}
    if summary is not None:
        nearest, selected = select_near(summary[..., 0], min(talk.near, summary.shape[2]))
        wanted = dict(zip(sources, selected.split([talk.clusters[t] for t in sources], 1), strict=True))
    shapes = dict.fromkeys(askers, (rows, own))
    asked = channel.swap("near choice", wanted, shapes, torch.empty(0, dtype=torch.uint8, device=kv.device))
    asked = {s: want.bool().unsqueeze(-1) & filled for s, want in asked.items()}
    shapes = {t: (int(sizes[t][wanted[t]].sum()), kv.shape[-1]) for t in sources}
    members = channel.swap("near keys", {s: kv[mask] for s, mask in asked.items()}, shapes, kv)
    near = None if nearest is None else placed(nearest, list(wanted.values()), list(sizes.values()))
    return near, members, asked


def ask_moments(
    talk: Talk, points: Mapping[int, Tensor], basis: Tensor, near: Near | None, kv: Tensor
) -> tuple[Tensor | None, dict[int, Tensor], dict[int, Tensor]]:
    """Send every source the directions and which of its clusters are near; it says the moments of the others.

    Returns the moments [T, R, I, r, Dv], and of every asker its directions and which own clusters are near to it.
    """
    sources, (D, r) = talk.parts.sources, basis.shape[-2:]
    bases = talk.to_keys("directions", dict.fromkeys(sources, basis), D, r, like=kv)
    own, near_to = talk.clusters[talk.channel.rank], {}
    if talk.near:
        near_masks = {}
        if near is not None:
            total = sum(talk.clusters[t] for t in sources)
            mask = torch.zeros(*basis.shape[:2], total, dtype=torch.uint8, device=kv.device)
            mask.scatter_(-1, near.nearest, 1)
            near_masks = dict(zip(sources, mask.split([talk.clusters[t] for t in sources], -1), strict=True))
        flags = torch.empty(0, dtype=torch.uint8, device=kv.device)
        near_to = {
            s: mask.bool() for s, mask in talk.to_keys("near masks", near_masks, own, like=flags).items()
        }
    for s, there in bases.items():
        near_to.setdefault(s, torch.zeros(*there.shape[:2], own, dtype=torch.bool, device=kv.device))
    filled = talk.assignments.filled
    answers = {s: moments(points[s], bases[s], kv, filled, near_to[s], talk.scale) for s in bases}
    shape = (*basis.shape[:2], r, kv.shape[-1] - D)
    heard = talk.channel.swap("moments", answers, dict.fromkeys(sources, shape), kv)
    return torch.stack(list(heard.values())) if heard else None, bases, near_to


def broadcast_sinks(talk: Talk, k: Tensor, v: Tensor, like: Tensor) -> Tensor | None:
    """The first keys of the first rank, their values, and 1 where they count: [B, Hk, sinks, F + 1] for listeners."""
    first = (slice(None), slice(None), slice(talk.sinks))
    parts = {}
    if talk.channel.rank == 0:
        counts = torch.ones_like(k[first][..., :1])
        if talk.sinks_kept is not None:
            counts = counts * talk.sinks_kept[:, None, :, None]
        parts = dict.fromkeys(talk.listeners, torch.cat([k[first], v[first], counts], -1).to(like))
    shape = (*k.shape[:2], talk.sinks, k.shape[-1] + v.shape[-1] + 1)
    shapes = {0: shape} if talk.channel.rank in talk.listeners else {}
    return talk.channel.swap("sinks", parts, shapes, like).get(0)


def return_sinks(talk: Talk, dsinks: Tensor | None, dk: Tensor, dv: Tensor, like: Tensor) -> None:
    """Add what every listener's queries say of the sinks to the first rank's dk and dv, in place."""
    shape = (*dk.shape[:2], talk.sinks, dk.shape[-1] + dv.shape[-1])
    parts = {} if dsinks is None else {0: dsinks[..., :-1]}
    shapes = dict.fromkeys(talk.listeners, shape) if talk.channel.rank == 0 else {}
    for part in talk.channel.swap("sinks gradient", parts, shapes, like).values():
        for grad, own in zip((dk, dv), part.split([dk.shape[-1], dv.shape[-1]], -1), strict=True):
            grad[:, :, : talk.sinks] += own
