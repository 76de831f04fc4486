"""Which clusters one decoding step opens, and the gathers that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from multipole_lab.kernels.decode.work import Work


def open_clusters(
    share: Float[Tensor, "R C"],
    first: Int[Tensor, "R stored"],
    members: Int[Tensor, "R stored"],
    budget: int,
    limit: Float[Tensor, "R 1"] | None = None,
    budgets: Int[Tensor, " R"] | None = None,
    spare: int = 0,
) -> tuple[Int[Tensor, "R budget"], Bool[Tensor, "R budget"], Bool[Tensor, "R C"]]:
    """The clusters of largest share per member, in that order, as long as all their members fit into ``budget`` places.

    Returns the members' positions in the level below (``spare`` where a place stays empty), which places are filled,
    and the clusters opened. Empty clusters take no place. With ``limit`` it stops as soon as the taken shares reach
    it. With ``budgets`` every row has its own number of places, ``budget`` at most.
    """
    R, C = share.shape
    first, members = first[:, :C], members[:, :C]
    ranked = (share / members.clamp(min=1)).sort(dim=-1, descending=True, stable=True)
    sizes = members.gather(-1, ranked.indices)
    ends = sizes.cumsum(-1)
    fits = ends <= (
        budget if budgets is None else budgets.unsqueeze(-1)
    )  # a prefix, for sizes are not negative
    if limit is not None:
        mass = share.gather(-1, ranked.indices)
        fits &= mass.cumsum(-1) - mass < limit
    opened = torch.zeros_like(fits).scatter(-1, ranked.indices, fits)
    # Place t is the rank-th member of the ranked cluster that fills it: that cluster's first, shifted by t.
    kept = torch.where(fits, sizes, 0)
    held = kept.sum(-1, keepdim=True)
    shift = first.gather(-1, ranked.indices) - (ends - sizes)
    fill = torch.cat([kept, budget - held], -1)  # the rest of the places belongs to nobody
    shift = torch.nn.functional.pad(shift, (0, 1)).flatten()
    place = torch.arange(budget, device=share.device)
    taken = place < held
    index = shift.repeat_interleave(fill.flatten(), output_size=R * budget).view(R, budget) + place
    return torch.where(taken, index, spare), taken, opened


def places(index: Int[Tensor, "R m"], n: int) -> Int[Tensor, "R m"]:
    """Indices into every row's own n vectors, as indices into all R * n of them."""
    return index + torch.arange(index.shape[0], device=index.device).unsqueeze(-1) * n


def gather_rows(
    x: Float[Tensor, "R n D"], index: Int[Tensor, "R m"], work: Work | None = None
) -> Float[Tensor, "R m D"]:
    """Vectors of every row's own matrix; ``x`` contiguous.

    With ``work`` into one of its buffers, which the next call overwrites: on a CPU, the pages of a new result cost
    several times the copy.
    """
    (R, n, D), m = x.shape, index.shape[1]
    at, x = places(index, n).view(-1), x.reshape(R * n, D)
    if work is None:
        return x.index_select(0, at).view(R, m, D)
    out = work.take("rows", (R * m, D), x, str(x.dtype).removeprefix("torch."))
    return torch.index_select(x, 0, at, out=out).view(R, m, D)


def weighted_rows(
    weights: Float[Tensor, "R G m"], x: Float[Tensor, "R n D"], index: Int[Tensor, "R m"]
) -> Float[Tensor, "R G D"]:
    """``sum_m weights[g, m] x[index[m]]`` of every row; ``x`` contiguous."""
    (R, G, m), (n, D) = weights.shape, x.shape[1:]
    if x.dtype != weights.dtype:
        return torch.bmm(weights, gather_rows(x, index).to(weights.dtype))
    # The same without writing the vectors out.
    at = places(index, n).unsqueeze(1).expand(R, G, m).reshape(R * G, m)
    bags = torch.nn.functional.embedding_bag(
        at, x.reshape(R * n, D), per_sample_weights=weights.reshape(R * G, m), mode="sum"
    )
    return bags.view(R, G, D)
