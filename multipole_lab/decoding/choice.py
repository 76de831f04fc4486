"""Which clusters one decoding step opens, and the gathers that follow from it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.decoding.state import Level
from multipole_lab.kernels.decode_work import Work


def choose(
    share: Float[Tensor, "R C"],
    first: Int[Tensor, "R C"],
    members: Int[Tensor, "R C"],
    room: int,
    limit: Float[Tensor, "R 1"] | None = None,
) -> tuple[Int[Tensor, "R room"], Bool[Tensor, "R room"], Bool[Tensor, "R C"]]:
    """The clusters of largest share, in that order, as long as all their members fit into ``room`` places.

    Returns the members' positions in the level below, which places are filled, and the clusters taken. Empty
    clusters take no room. With ``limit`` it stops as soon as the taken shares reach it.
    """
    R, C = share.shape
    first, members = first[:, :C], members[:, :C]
    ranked = share.sort(dim=-1, descending=True, stable=True)
    sizes = members.gather(-1, ranked.indices)
    ends = sizes.cumsum(-1)
    fits = ends <= room  # a prefix, for sizes are not negative
    if limit is not None:
        fits &= ranked.values.cumsum(-1) - ranked.values < limit
    opened = torch.zeros_like(fits).scatter(-1, ranked.indices, fits)
    # Place t belongs to the first ranked cluster that ends behind it.
    place = torch.arange(room, device=share.device)
    which = torch.searchsorted(ends, place.expand(R, room).contiguous(), right=True).clamp(max=C - 1)
    taken = fits.gather(-1, which) & (place < ends[:, -1:])
    # A place's position is its cluster's first member, plus its rank among them.
    shift = first.gather(-1, ranked.indices) - (ends - sizes)
    index = torch.where(taken, shift.gather(-1, which) + place, 0)
    return index, taken, opened


def gather_rows(
    x: Float[Tensor, "R n D"], index: Int[Tensor, "R m"], work: Work | None = None, name: str = ""
) -> Float[Tensor, "R m D"]:
    """Rows of every row's own matrix; ``x`` contiguous.

    With ``work`` into its buffer ``name``: on a CPU, the pages of a new result cost several times the copy.
    """
    R, n, D = x.shape
    index = (index + torch.arange(R, device=x.device).unsqueeze(-1) * n).view(-1)
    x = x.reshape(R * n, D)
    if work is None:
        return x.index_select(0, index).view(R, -1, D)
    out = work.take(name, (index.numel(), D), x, str(x.dtype).removeprefix("torch."))
    return torch.index_select(x, 0, index, out=out).view(R, -1, D)


def reached(
    level: Level, index: Int[Tensor, "R m"], taken: Bool[Tensor, "R m"], work: Work | None = None
) -> Level:
    """The entries of a level (in rows) that a lookup reached; unfilled places are empty clusters."""
    tokens, first = (torch.where(taken, x.gather(-1, index), 0) for x in (level.tokens, level.first))
    keys = gather_rows(level.keys, index, work, "centroids")
    values = gather_rows(level.values, index, work, "centroid values")
    return Level(keys, values, tokens, first, tokens, index.shape[-1])
