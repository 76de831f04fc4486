"""Gradients by recomputing: a formula's forward runs without a graph, its backward runs the formula again with one.

Only the inputs are kept between the two, so training memory is linear in the sequence. The forward is an opaque
custom operator, which ``torch.compile`` with ``fullgraph=True`` puts into its graph as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def recomputed(
    name: str, formula: Callable[..., tuple[Tensor, Tensor]]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Wrap ``formula(q, k, v, constants, settings) -> (out, lse)`` as the differentiable operator ``name``.

    ``constants`` is a list of tensors that carry no gradient (assignments, directions), ``settings`` a list of
    floats. ``out`` has the shape of q with v's head size and lse that of q without its last dimension.
    """

    @torch.library.custom_op(f"multipole_lab::{name}", mutates_args=())
    def forward(
        q: Tensor, k: Tensor, v: Tensor, constants: Sequence[Tensor], settings: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        out, lse = formula(q, k, v, list(constants), list(settings))
        return out.contiguous(), lse.contiguous()

    @forward.register_fake
    def _(q, k, v, constants, settings):
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=dtype)

    def save(ctx, inputs, output):
        q, k, v, constants, ctx.settings = inputs
        ctx.count = len(constants)
        ctx.save_for_backward(q, k, v, *constants, output[1])

    def gradients(ctx, dout, dlse):
        q, k, v, *constants, lse = ctx.saved_tensors
        dout = v.new_zeros(*q.shape[:-1], v.shape[-1]) if dout is None else dout
        dlse = torch.zeros_like(lse) if dlse is None else dlse
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (q, k, v)]
            results = formula(*inputs, constants, ctx.settings)
        grads = torch.autograd.grad(results, inputs, (dout, dlse))
        return *grads, [None] * ctx.count, None

    forward.register_autograd(gradients, setup_context=save)
    return forward
