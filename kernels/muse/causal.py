"""Causal MuSe in one pass: exact leaves on the diagonal, and every level of blocks above merged into their result.

All partials of a query share one output and one log-sum-exp, in place. The backward needs no more than those: with the
log-sum-exp over all keys every level's part of the softmax is right as it stands, so each is differentiated alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..common.branches import in_branches
from ..common.checks import check_attention, check_tensors
from ..common.delta import output_delta
from ..common.derivatives import KernelFunction
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from ..exact.leaf import leaf_into
from ..exact.leaf_backward import leaf_backward
from .backward import muse_backward
from .evaluate import evaluate
from .forward import one_head_size
from .select import select_near
from .summarise import summarise


def muse_causal(
    q: Tensor, k: Tensor, v: Tensor, of_queries: Callable, of_keys: Callable, block: int, levels: int, scale: float,
    near: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Causal attention by the block recursion, with a monopole; differentiable in q, k and v.

    (out, lse) = leaf(blocks); then at every level muse(right blocks over their left neighbours) is merged in.

    Parameters
    ----------
    q : [B, Hq, N, D], k : [B, Hk, N, D], v : [B, Hk, N, Dv] of one dtype, N = block * 2^levels; without copies where
        B = 1 or batch and heads have one stride.
    of_queries, of_keys : make `Clusters` of the queries and of the keys of a level, [blocks, H, n, D], on the device.
    block : the positions of a leaf. levels : how many times blocks are doubled.
    near : key clusters that every query cluster sums exactly.

    Returns
    -------
    out [B, Hq, N, Dv] in the dtype of q, lse [B, Hq, N] fp32.

    Bytes and operations: of `leaf`, and for every level of two clusterings, `summarise` and `evaluate` of N / 2.
    """
    check_tensors("muse_causal", q=q, k=k, v=v)
    check_attention("muse_causal", q, k, v)
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"muse_causal: q has {q.shape[2]} positions and k {k.shape[2]}; one number is needed"
        )
    if q.shape[2] != block << levels:
        raise ValueError(f"q has {q.shape[2]} positions; block * 2^levels, {block << levels}, is needed")
    size = v.shape[-1]
    q, k, v = one_head_size(q, k, v)
    # Batch entries become heads: groups stay together, and every block is then a view.
    flat = (row_strided(x.reshape(-1, *x.shape[2:])) for x in (q, k, v))
    out, lse = _Causal.apply(*flat, of_queries, of_keys, block, levels, scale, near, fp32_precision(q))
    return out.view(*q.shape[:3], -1)[..., :size], lse.view(q.shape[:3])


class _Causal(KernelFunction):
    operation = "muse_causal"

    @staticmethod
    def forward(ctx, q, k, v, of_queries, of_keys, block, levels, scale, near, precision):
        out = torch.empty(*q.shape[:2], v.shape[-1], dtype=q.dtype, device=q.device)
        lse = torch.empty(*q.shape[:2], 1, dtype=torch.float32, device=q.device)
        to, to_lse, *inputs = (_blocks(x, block) for x in (out, lse, q, k, v))

        def leaves() -> None:
            leaf_into(to, to_lse[..., 0], *inputs, scale, precision=precision)

        def level_summaries(qs: Tensor, ks: Tensor, vs: Tensor) -> tuple:
            of_q, of_k = in_branches([lambda: of_queries(qs), lambda: of_keys(ks)])
            made = of_q.centroids.to(q.dtype), of_q.order, of_q.offsets, of_k.order, of_k.offsets
            mass, *means = summarise(made[0], ks, vs, *made[3:], scale, precision=precision)
            near_far = select_near(mass, near)[:2] if near else (mass.new_empty(0, dtype=torch.int32), mass)
            return made, near_far, means

        levels = [_sides(block << level, "rllrr", q, k, v, out, lse) for level in range(levels)]
        _, *found = in_branches([leaves, *(partial(level_summaries, *level[:3]) for level in levels)])
        kept = []
        for (*inputs, to, to_lse), (made, near_far, means) in zip(levels, found, strict=True):
            into = to, to_lse[..., 0]
            evaluate(*inputs, *made, *near_far, *means, scale, precision=precision, into=into)
            kept += made
        ctx.save_for_backward(q, k, v, out, lse, *kept)
        ctx.block, ctx.scale, ctx.near, ctx.precision = block, scale, near, precision
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        if dout is None and dlse is None:
            return (None,) * 10
        q, k, v, out, lse, *kept = ctx.saved_tensors
        block, scale, near, precision = ctx.block, ctx.scale, ctx.near, ctx.precision
        dout = torch.zeros_like(out) if dout is None else row_strided(dout)
        flat_dlse = None if dlse is None else dlse[None, ..., 0]
        delta = output_delta(out[None], dout[None], flat_dlse)[0, ..., None]
        *inputs, to, to_lse, do = (_blocks(x, block) for x in (q, k, v, out, lse, dout))
        dlse = None if dlse is None else _blocks(dlse, block)[..., 0]

        def leaf_parts() -> tuple[Tensor, ...]:
            seen = to.contiguous(), to_lse[..., 0].contiguous()
            return leaf_backward(*inputs, None, None, *seen, do, dlse, scale, True, precision)

        def level_parts(level: int) -> tuple[Tensor, ...]:
            made = kept[5 * level : 5 * level + 5]
            qs, ks, vs, do, at_lse, at_delta = _sides(block << level, "rllrrr", q, k, v, dout, lse, delta)
            mass, *means = summarise(made[0], ks, vs, *made[3:], scale, precision=precision)
            grads = muse_backward(
                qs, ks, vs, *made, mass, *select_near(mass, near), *means, None, at_lse[..., 0].contiguous(), do, None,
                scale, None, None, None, precision, at_delta[..., 0].contiguous(),
            )  # fmt: skip
            return grads[:3]

        parts = in_branches([leaf_parts, *(partial(level_parts, level) for level in range(len(kept) // 5))])
        grads = [
            part.transpose(0, 1).float().reshape(x.shape) for part, x in zip(parts[0], (q, k, v), strict=True)
        ]
        for level, added in enumerate(parts[1:]):
            for grad, part in zip(_sides(block << level, "rll", *grads), added, strict=True):
                grad += part
        return *(grad.to(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True)), *(None,) * 7


def _blocks(x: Tensor, size: int) -> Tensor:
    """[H, N, D] as the view [N / size, H, size, D]."""
    return x.unflatten(1, (-1, size)).transpose(0, 1)


def _sides(size: int, sides: str, *tensors: Tensor) -> list[Tensor]:
    """Of every pair of blocks of each [H, N, D], the left or right one ("l", "r"): views [pairs, H, size, D]."""
    return [
        x.unflatten(1, (-1, 2, size))[:, :, "lr".index(side)].transpose(0, 1)
        for side, x in zip(sides, tensors, strict=True)
    ]
