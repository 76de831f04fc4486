"""Gradients by recomputing: a formula's forward runs without a graph, its backward runs the formula again with one.

Only the inputs are kept between the two, so training memory is linear in the sequence. Both run over tiles of rows,
a row being one key/value head of one batch entry with its query heads, so that a tile's temporaries stay in the
cache and the memory they take is used again. The forward is an opaque custom operator, which ``torch.compile`` with
``fullgraph=True`` puts into its graph as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from multipole_lab.attention.calls.transforms import (
    differentiable_gradients,
    differentiated_again,
    transformed,
    without_autocast,
)
from multipole_lab.clustering.clusters import statistics_dtype

Formula = Callable[[Tensor, Tensor, Tensor, list[Tensor], list[float]], tuple[Tensor, Tensor]]

# The largest temporary of a tile, in numbers.
TILE = 1 << 19


def recomputed(name: str, formula: Formula, size: Callable[..., int]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Wrap a formula as the differentiable operator ``multipole_lab::name``, of the same arguments.

    Where a second derivative or another transform than reverse mode is asked for, torch differentiates the formula.

    Parameters
    ----------
    formula : ``formula(q, k, v, constants, settings) -> (out, lse)`` on q [B, Hq, Nq, D], k and v [B, Hk, Nk, .].
        ``constants`` are tensors [B, Hq or Hk, ...] that carry no gradient (assignments), ``settings`` floats.
    size : ``size(q, k, v, constants, settings)``: how many numbers the largest temporary of one row has, of
        arguments reshaped to B = rows and Hk = 1.
    """

    @torch.library.custom_op(f"multipole_lab::{name}", mutates_args=())
    def forward(
        q: Tensor, k: Tensor, v: Tensor, constants: Sequence[Tensor], settings: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        out, lse = in_tiles(q, k, v, constants, settings)
        return out.contiguous(), lse.contiguous()

    def in_tiles(q, k, v, constants, settings):
        tiles = [formula(*tile, settings) for tile in row_tiles(q, k, v, constants, settings, size)]
        out, lse = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*tiles, strict=True))
        return out.reshape(*q.shape[:-1], v.shape[-1]), lse.reshape(q.shape[:-1])

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
        upstream = [dout, dlse.unsqueeze(-1)]
        tiles = row_tiles(q, k, v, [*constants, *upstream], ctx.settings, size)
        parts = []
        for tq, tk, tv, rest in tiles:
            *fixed, tile_dout, tile_dlse = rest
            # A backward called inside an autocast region must recompute what the forward computed outside it.
            with torch.enable_grad(), without_autocast(q.device.type):
                inputs = [x.detach().requires_grad_() for x in (tq, tk, tv)]
                results = formula(*inputs, fixed, ctx.settings)
                parts.append(torch.autograd.grad(results, inputs, (tile_dout, tile_dlse.squeeze(-1))))
        grads = [
            torch.cat(part).view(x.shape) for part, x in zip(zip(*parts, strict=True), (q, k, v), strict=True)
        ]
        return *grads, [None] * ctx.count, None

    forward.register_autograd(backward, setup_context=save)

    def differentiable(q, k, v, constants, settings):
        return (in_tiles if transformed() else forward)(q, k, v, constants, settings)

    return differentiable


def row_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    constants: Sequence[Tensor],
    settings: Sequence[float],
    size: Callable[..., int],
) -> Iterator[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
    """Cut a call into calls with one key/value head and a batch of as many rows as fit a tile."""
    rows = k.shape[0] * k.shape[1]
    q, k, v, *constants = (x.reshape(rows, -1, *x.shape[2:]) for x in (q, k, v, *constants))
    constants = [x.contiguous() for x in constants]  # formulas look at them in other shapes
    step = max(1, TILE // max(1, size(q, k, v, constants, settings)))
    for first in range(0, rows, step):
        part = slice(first, first + step)
        yield q[part], k[part], v[part], [c[part] for c in constants]
