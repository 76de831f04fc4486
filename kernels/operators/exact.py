"""Exact attention as an operator."""

from __future__ import annotations

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from ..exact.leaf import leaf
from ..exact.leaf_backward import leaf_backward


@torch.library.custom_op(add_op_namespace_prefix("exact"), mutates_args=())
def exact(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp, as `leaf`: q [B, Hq, Nq, D], k and v [B, Hk, Nk, D and Dv]."""
    return leaf(q, k, v, scale, causal)


@exact.register_fake
def _(q, k, v, scale, causal):
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(add_op_namespace_prefix("exact_backward"), mutates_args=())
def exact_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v, from those of both results."""
    q, k, v = (row_strided(x) for x in (q, k, v))
    return leaf_backward(q, k, v, None, None, out, lse, dout, dlse, scale, causal, None, fp32_precision(q))


@exact_backward.register_fake
def _(dout, dlse, q, k, v, out, lse, scale, causal):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _save(ctx, inputs, output):
    *tensors, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dout, dlse):
    return *exact_backward(dout, dlse, *ctx.saved_tensors, ctx.scale, ctx.causal), None, None


exact.register_autograd(_backward, setup_context=_save)
