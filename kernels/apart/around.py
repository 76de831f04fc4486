"""MuSe of queries around the means of other queries: those of an earlier block, which no later query moves."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import check_attention, check_sorts, check_tensors
from ..common.delta import output_delta
from ..common.derivatives import KernelFunction
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from ..muse.evaluate import evaluate
from ..muse.forward import one_head_size
from ..muse.select import near_and_far
from ..muse.summarise import summarise
from .gradients import Sorted, key_gradients, near_gradients, query_gradients, summary_gradients


def muse_around(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    points: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    scale: float,
    near: int = 0,
) -> tuple[Tensor, Tensor]:
    """`muse` with a monopole, whose expansion points are given: differentiable in q, k, v and the points.

    Parameters
    ----------
    points : p [B, Hq, Cq, D], any; the queries of cluster i are evaluated around p_i, whatever their mean is.
    All others are those of `muse`.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32. A padded query has out 0 and lse -inf.

    Bytes and operations: those of `muse`.
    """
    check_tensors("muse_around", q=q, k=k, v=v)
    check_attention("muse_around", q, k, v)
    check_sorts("muse_around", q, q.shape[:3], k.shape[:3], q_order, q_offsets, k_order, k_offsets)
    needed, size = (*q.shape[:2], q_offsets.shape[-1] - 1, q.shape[-1]), v.shape[-1]
    if tuple(points.shape) != needed:
        raise ValueError(f"muse_around: points have shape {tuple(points.shape)}; {needed} is needed")
    q, k, v, points = (row_strided(x) for x in one_head_size(q, k, v, points.to(q.dtype)))
    sorts = (x.contiguous() for x in (q_order, q_offsets, k_order, k_offsets))
    out, lse = _Around.apply(q, k, v, points, *sorts, scale, near)
    return out[..., :size], lse


class _Around(KernelFunction):
    operation = "muse_around"

    @staticmethod
    def forward(ctx, q, k, v, points, q_order, q_offsets, k_order, k_offsets, scale, near):
        sorts, precision = (q_order, q_offsets, k_order, k_offsets), fp32_precision(q)
        mass, *means = summarise(points, k, v, *sorts[2:], scale, precision=precision)
        near_far = near_and_far(mass, near)
        out, lse, _ = evaluate(q, k, v, points, *sorts, *near_far, *means, scale, precision=precision)
        ctx.save_for_backward(q, k, v, points, *sorts, out, lse)
        ctx.scale, ctx.near = scale, near
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, points, q_order, q_offsets, *k_sorted, out, lse = ctx.saved_tensors
        dout = torch.zeros_like(out) if dout is None else dout
        upstream = lse, dout, output_delta(out, dout, dlse)
        grads = _gradients(
            q, k, v, points, (q_order, q_offsets), tuple(k_sorted), upstream, ctx.scale, ctx.near
        )
        return *grads, *(None,) * 6


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, points: Tensor, q_sorted: Sorted, k_sorted: Sorted,
    upstream: tuple[Tensor, Tensor, Tensor], scale: float, near: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv and the gradient of the points, from new summaries."""
    precision = fp32_precision(q)
    last = scale, precision
    mass, *means = summarise(points, k, v, *k_sorted, scale, precision=precision)
    chosen, far = near_and_far(mass, near)
    d_summaries = summary_gradients(q, points, q_sorted, far, *means, *upstream, *last)
    d_points, dk, dv = key_gradients(k, v, points, k_sorted, (mass, *means), d_summaries, *last)
    if near:
        d_near = near_gradients(q, q_sorted, k, v, k_sorted, far, *upstream, *last)
        dk, dv = dk + d_near[0], dv + d_near[1]
    # The points move with none of these queries.
    still = torch.zeros_like(d_points)
    seen = chosen, far, *means
    dq = query_gradients(q, k, v, points, q_sorted, k_sorted, seen, *upstream, still, *last)
    return dq, dk, dv, d_points.to(points.dtype)
