"""The near field in torch: exact attention over the members fetched, some clusters of queries at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.attention.calls.recompute import TILE
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.partials import Partial


def near_field(
    qs: Float[Tensor, "T M D"],
    members: Float[Tensor, "n F"],
    first: Int[Tensor, "T near"],
    length: Int[Tensor, "T near"],
    scale: float,
) -> Partial:
    """Every list of M queries over its near clusters, which are the ``length`` rows of the members from ``first`` on.

    Memory is that of the members gathered for a step, in the backward too: it grows with the largest cluster, not with
    that times the lists.
    """
    longest = max(1, int(length.max()))
    step = max(1, TILE // (length.shape[-1] * longest * members.shape[-1]))
    return _Near.apply(qs, members, first, length, scale, longest, step)


def _attend(qs: Tensor, gathered: Tensor, filled: Tensor, scale: float) -> Partial:
    keys, values = gathered.split([qs.shape[-1], gathered.shape[-1] - qs.shape[-1]], -1)
    return exact_partial(*(x.unsqueeze(1) for x in (qs, keys, values)), scale, mask=filled)


class _Near(torch.autograd.Function):
    """In steps; the backward gathers again, for all steps together would hold too much."""

    @staticmethod
    def steps(qs: Tensor, members: Tensor, first: Tensor, length: Tensor, longest: int, step: int):
        """For each step which lists it has, their members, where those come from, and which of them count."""
        inside = torch.arange(longest, device=qs.device)
        for i in range(0, len(qs), step):
            own = slice(i, i + step)
            filled = (inside < length[own].unsqueeze(-1)).flatten(1)
            place = torch.where(filled, (first[own].unsqueeze(-1) + inside).flatten(1), 0)
            gathered = members.index_select(0, place.flatten()).view(*place.shape, -1).to(qs.dtype)
            yield own, gathered, place, filled

    @staticmethod
    def forward(ctx, qs, members, first, length, scale, longest, step):
        ctx.save_for_backward(qs, members, first, length)
        ctx.settings = scale, longest, step
        parts = [
            _attend(qs[own], gathered, filled, scale)
            for own, gathered, _, filled in _Near.steps(qs, members, first, length, longest, step)
        ]
        out, lse = (torch.cat(x).squeeze(1) for x in zip(*parts, strict=True))
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        qs, members, first, length = ctx.saved_tensors
        scale, *settings = ctx.settings
        dqs, dmembers = [], torch.zeros(members.shape, dtype=qs.dtype, device=qs.device)
        for own, gathered, place, filled in _Near.steps(qs, members, first, length, *settings):
            leaves = [x.detach().requires_grad_() for x in (qs[own], gathered)]
            with torch.enable_grad():
                results = _attend(*leaves, filled, scale)
                grads = torch.autograd.grad(results, leaves, (dout[own].unsqueeze(1), dlse[own].unsqueeze(1)))
            dqs.append(grads[0])
            counted = grads[1] * filled.unsqueeze(-1)
            dmembers.index_add_(0, place.flatten(), counted.flatten(0, 1))
        return torch.cat(dqs), dmembers.to(members.dtype), None, None, None, None, None
