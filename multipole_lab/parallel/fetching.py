"""The near field across ranks: which key clusters are fetched, who sends which members, and where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Fetched:
    """The near clusters of this rank's queries, and their members, each cluster once a key/value head.

    Attributes
    ----------
    nearest : [B, Hq, I, near]. The clusters of each query cluster, among all J of its sources; -1 for none.
    far : [B, Hq, I, J]. The masses, without those of the near clusters.
    members : [B, Hk, M, D + Dv]. Keys and values side by side, sorted by cluster, zeros behind them.
    order : [B, Hk, M]. 0 to M - 1, the places of the members.
    offsets : [B, Hk, J + 1]. Where each cluster's members begin and end; a cluster that was not fetched has none.
    places : for every source in their order, where the members that came from it are among the B Hk M.
    """

    nearest: Int[Tensor, "B Hq I near"]
    far: Float[Tensor, "B Hq I J"]
    members: Float[Tensor, "B Hk M F"]
    order: Int[Tensor, "B Hk M"]
    offsets: Int[Tensor, "B Hk J1"]
    places: tuple[Tensor, ...]


def wanted(nearest: Int[Tensor, "B Hq I near"], heads: int, clusters: int) -> Bool[Tensor, "B Hk J"]:
    """Which clusters are near to some query cluster that reads the key/value head."""
    chosen = nearest.flatten(2).unflatten(1, (heads, -1)).flatten(2).long()
    chosen = torch.where(chosen < 0, clusters, chosen)
    any_near = torch.zeros(*chosen.shape[:2], clusters + 1, dtype=torch.bool, device=chosen.device)
    return any_near.scatter_(2, chosen, True)[..., :clusters]


def rows_of(
    want: Bool[Tensor, "B Hk J"], order: Int[Tensor, "B Hk n"], offsets: Int[Tensor, "B Hk J1"], keys: int
) -> Int[Tensor, " members"]:
    """The members of the clusters wanted as rows of [B * Hk * keys, .]: head by head, cluster by cluster."""
    B, H, n = order.shape
    place = torch.arange(n, device=order.device).expand(B, H, n).contiguous()
    label = torch.searchsorted(offsets.contiguous(), place, right=True) - 1
    # Behind the last cluster there is padding.
    chosen = (place < offsets[..., -1:]) & want.gather(2, label.clamp(max=want.shape[-1] - 1))
    head = torch.arange(B * H, device=order.device).view(B, H, 1) * keys
    return (order + head)[chosen]


def placed(
    nearest: Tensor,
    far: Tensor,
    want: Sequence[Bool[Tensor, "B Hk J_t"]],
    sizes: Sequence[Int[Tensor, "B Hk J_t"]],
    parts: Sequence[Float[Tensor, "n_t F"]],
) -> Fetched:
    """Put what came from every source, in their order, where its cluster is."""
    counts = torch.where(torch.cat(list(want), -1), torch.cat(list(sizes), -1).long(), 0)
    offsets = torch.nn.functional.pad(counts.cumsum(-1), (1, 0))  # [B, Hk, J + 1]
    B, H, longest = *counts.shape[:2], max(1, int(offsets[..., -1].max()))
    rows, first, places = torch.arange(B * H, device=far.device), 0, []
    for own, part in zip(want, parts, strict=True):
        start = rows * longest + offsets[..., first].flatten()
        first += own.shape[-1]
        length = (
            offsets[..., first].flatten() + rows * longest - start
        )  # of this source's members of every head
        inside = torch.arange(len(part), device=far.device)
        places.append(
            inside + (start - length.cumsum(0) + length).repeat_interleave(length, output_size=len(part))
        )
    members = parts[0].new_zeros(B * H * longest, parts[0].shape[-1])
    members.index_copy_(0, torch.cat(places), torch.cat(list(parts)))
    order = torch.arange(longest, device=far.device).expand(B, H, longest).contiguous()
    return Fetched(nearest, far, members.view(B, H, longest, -1), order, offsets, tuple(places))


def returned(near: Fetched, d_members: Tensor, sources: Sequence[int]) -> Mapping[int, Tensor]:
    """The gradients of the members, for the source that each came from."""
    flat = d_members.flatten(0, 2)
    return {t: flat.index_select(0, places) for t, places in zip(sources, near.places, strict=True)}
