"""Gradients by recomputing: a formula's forward runs without a graph, its backward runs the formula again with one.

Only the inputs are kept between the two, so training memory is linear in the sequence. Both run over tiles of rows,
a row being one key/value head of one batch entry with its query heads, so that a tile's temporaries stay in the
cache and the memory they take is used again. The forward is an opaque custom operator, which ``torch.compile`` with
``fullgraph=True`` puts into its graph as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from multipole_lab.attention.calls.flat import numbers_of, tensors_of, with_numbers, with_tensors
from multipole_lab.attention.calls.transforms import (
    differentiable_gradients,
    differentiated_again,
    transformed,
    without_autocast,
)
from multipole_lab.clustering.clusters import statistics_dtype

C, S = TypeVar("C"), TypeVar("S")
Formula = Callable[[Tensor, Tensor, Tensor, C, S], tuple[Tensor, Tensor]]

# The largest temporary of a tile, in numbers.
TILE = 1 << 19


def recomputed(
    name: str,
    formula: Formula[C, S],
    size: Callable[[Tensor, Tensor, Tensor, C, S], int],
    clusters_type: type[C],
    settings_type: type[S],
) -> Formula[C, S]:
    """Wrap a formula as the differentiable operator ``multipole_lab::name``, of the same arguments.

    Where a second derivative or another transform than reverse mode is asked for, torch differentiates the formula.

    Parameters
    ----------
    formula : ``formula(q, k, v, clusters, settings) -> (out, lse)`` on q [B, Hq, Nq, D], k and v [B, Hk, Nk, .].
    size : of the same arguments, reshaped to B = rows and Hk = 1: how many numbers the largest temporary of one row
        has.
    clusters_type : a frozen dataclass of tensors [B, Hq or Hk, ...] that carry no gradient: the assignments.
    settings_type : a frozen dataclass of floats, integers and booleans.
    """

    # An operator takes lists: of the tensors of the clusters, and of the numbers of the settings.
    @torch.library.custom_op(f"multipole_lab::{name}", mutates_args=())
    def forward(
        q: Tensor, k: Tensor, v: Tensor, constants: Sequence[Tensor], settings: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        out, lse = in_tiles(q, k, v, constants, settings)
        return out.contiguous(), lse.contiguous()

    def in_tiles(q, k, v, constants, settings):
        parts = [formula(*tile) for tile, _ in tiles(q, k, v, constants, settings)]
        out, lse = (part[0] if len(part) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
        return out.reshape(*q.shape[:-1], v.shape[-1]), lse.reshape(q.shape[:-1])

    def tiles(q, k, v, constants, settings, *more):
        """Calls of the formula for as many rows as fit a tile, and the same rows of more tensors."""
        settings = with_numbers(settings_type, settings)
        qkv, constants, more = (by_row(k, x) for x in ((q, k, v), constants, more))
        constants = [x.contiguous() for x in constants]  # formulas look at them in other shapes
        more = [x.contiguous() for x in more]
        step = max(1, TILE // max(1, size(*qkv, with_tensors(clusters_type, constants), settings)))
        for first in range(0, len(qkv[1]), step):
            own_qkv, own, own_more = (
                [x[first : first + step] for x in each] for each in (qkv, constants, more)
            )
            yield (*own_qkv, with_tensors(clusters_type, own), settings), own_more

    @forward.register_fake
    def _(q, k, v, constants, settings):
        lse = q.new_empty(q.shape[:-1], dtype=statistics_dtype(q.dtype))
        return q.new_empty(*q.shape[:-1], v.shape[-1]), lse

    def save(ctx, inputs, output):
        q, k, v, constants, ctx.settings = inputs
        ctx.count = len(constants)
        ctx.save_for_backward(q, k, v, *constants, output[1])

    def backward(ctx, dout, dlse):
        q, k, v, *constants, lse = ctx.saved_tensors
        dout = v.new_zeros(*q.shape[:-1], v.shape[-1]) if dout is None else dout
        dlse = torch.zeros_like(lse) if dlse is None else dlse
        if differentiated_again():
            call = partial(in_tiles, constants=constants, settings=ctx.settings)
            return *differentiable_gradients(call, (q, k, v), (dout, dlse)), [None] * ctx.count, None
        parts = []
        for (tq, tk, tv, *given), (tile_dout, tile_dlse) in tiles(
            q, k, v, constants, ctx.settings, dout, dlse.unsqueeze(-1)
        ):
            # A backward called inside an autocast region must recompute what the forward computed outside it.
            with torch.enable_grad(), without_autocast(q.device.type):
                inputs = [x.detach().requires_grad_() for x in (tq, tk, tv)]
                results = formula(*inputs, *given)
                parts.append(torch.autograd.grad(results, inputs, (tile_dout, tile_dlse.squeeze(-1))))
        grads = [
            torch.cat(part).view(x.shape) for part, x in zip(zip(*parts, strict=True), (q, k, v), strict=True)
        ]
        return *grads, [None] * ctx.count, None

    forward.register_autograd(backward, setup_context=save)

    def differentiable(q: Tensor, k: Tensor, v: Tensor, clusters: C, settings: S) -> tuple[Tensor, Tensor]:
        if transformed():
            return formula(q, k, v, clusters, settings)
        return forward(q, k, v, tensors_of(clusters), numbers_of(settings))

    return differentiable


def by_row(k: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors [B, H, ...] with one key/value head of one batch entry a row: [B * Hk, H / Hk, ...]."""
    rows = k.shape[0] * k.shape[1]
    return [x.reshape(rows, -1, *x.shape[2:]) for x in tensors]
