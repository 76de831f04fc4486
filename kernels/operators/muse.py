"""MuSe of given clusters as operators: of all queries to all keys, and causal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..common.launch import fp32_precision
from ..common.layout import flat_heads, row_strided
from ..muse import causal as blocks, forward


@torch.library.custom_op(add_op_namespace_prefix("muse"), mutates_args=())
def muse(
    q: Tensor, k: Tensor, v: Tensor, centroids: Tensor, q_order: Tensor, q_offsets: Tensor, k_order: Tensor,
    k_offsets: Tensor, scale: float, near: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of clustered queries to clustered keys and its log-sum-exp, with a monopole.

    centroids, q_order and q_offsets are `clusters` of q, k_order and k_offsets the last two of k; `near` key clusters
    are summed exactly.
    """
    out, lse = forward.muse(q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, scale, near)
    return out.contiguous(), lse


@muse.register_fake
def _(q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, scale, near):
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(add_op_namespace_prefix("muse_backward"), mutates_args=())
def muse_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, centroids: Tensor, q_order: Tensor,
    q_offsets: Tensor, k_order: Tensor, k_offsets: Tensor, out: Tensor, lse: Tensor, scale: float, near: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v; which cluster is near is a constant."""
    *wide, out, dout = _ready(q, k, v, centroids.to(q.dtype), out, dout)
    sorts = q_order, q_offsets, k_order, k_offsets
    settings = scale, near, fp32_precision(q)
    return _cut(forward.muse_gradients(settings, *wide, *sorts, out, lse, dout, dlse), q, k, v)


@muse_backward.register_fake
def _(dout, dlse, q, k, v, *others):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


@torch.library.custom_op(add_op_namespace_prefix("muse_causal"), mutates_args=())
def muse_causal(
    q: Tensor, k: Tensor, v: Tensor, levels: Sequence[Tensor], block: int, scale: float, near: int
) -> tuple[Tensor, Tensor]:
    """Causal attention by the block recursion and its log-sum-exp, over block * 2^(levels) positions.

    levels : for every level, from blocks of that size up, five tensors as `muse` takes them: of the right blocks'
    queries and the left blocks' keys, as `level_blocks` cuts them.
    """
    out, lse = blocks.muse_causal(q, k, v, _by_level(levels), block, scale, near)
    return out.contiguous(), lse


@muse_causal.register_fake
def _(q, k, v, levels, block, scale, near):
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(add_op_namespace_prefix("muse_causal_backward"), mutates_args=())
def muse_causal_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, levels: Sequence[Tensor], out: Tensor, lse: Tensor,
    block: int, scale: float, near: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v, every level of which is differentiated alone."""
    *wide, out, dout = _ready(q, k, v, *(x.to(q.dtype) for x in levels[::5]), out, dout)
    wide, centroids, (out, dout) = flat_heads(*wide[:3]), wide[3:], flat_heads(out, dout)
    kept = [x for c, of_level in zip(centroids, _by_level(levels), strict=True) for x in (c, *of_level[1:])]
    lse, dlse = (x.reshape(-1, x.shape[-1], 1) for x in (lse, dlse))
    settings = block, scale, near, fp32_precision(q)
    grads = blocks.causal_gradients(settings, 1, *wide, out, lse, *kept, dout, dlse)
    return _cut([grad.unflatten(0, x.shape[:2]) for grad, x in zip(grads, (q, k, v), strict=True)], q, k, v)


@muse_causal_backward.register_fake
def _(dout, dlse, q, k, v, *others):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _by_level(tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    return [tuple(tensors[i : i + 5]) for i in range(0, len(tensors), 5)]


def _ready(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> list[Tensor]:
    """Tensors as the kernels' forward reads them."""
    return [row_strided(x) for x in forward.one_head_size(q, k, v, *more)]


def _cut(grads: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of what `_ready` made, as those of the inputs."""
    return tuple(grad[..., : x.shape[-1]].contiguous() for grad, x in zip(grads, inputs, strict=True))


def _save(ctx, inputs, output):
    *tensors, ctx.scale, ctx.near = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dout, dlse):
    return *muse_backward(dout, dlse, *ctx.saved_tensors, ctx.scale, ctx.near), *(None,) * 7


muse.register_autograd(_backward, setup_context=_save)


def _save_causal(ctx, inputs, output):
    q, k, v, levels, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, *levels)


def _backward_causal(ctx, dout, dlse):
    q, k, v, out, lse, *levels = ctx.saved_tensors
    grads = muse_causal_backward(dout, dlse, q, k, v, levels, out, lse, *ctx.settings)
    return *grads, [None] * len(levels), None, None, None


muse_causal.register_autograd(_backward_causal, setup_context=_save_causal)
