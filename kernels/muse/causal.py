"""Causal MuSe in one pass: exact leaves on the diagonal, and every level of blocks above merged into their result.

All partials of a query share one output and one log-sum-exp, in place. The backward needs no more than those: with the
log-sum-exp over all keys every level's part of the softmax is right as it stands, so each is differentiated alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..common.checks import check_attention, check_given, check_tensors
from ..common.delta import output_delta
from ..common.derivatives import KernelFunction, Run, run_now
from ..common.graphs import in_branches
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from ..exact import by_cudnn
from ..exact.leaf import leaf_into
from ..exact.leaf_backward import leaf_backward
from .backward import muse_backward
from .evaluate import evaluate
from .forward import one_head_size
from .levels import level_sum
from .select import select_near
from .summarise import summarise

# Of one level: centroids of the queries [pairs, B Hq, C, D], then order and offsets of the queries and of the keys.
LevelClusters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def level_blocks(q: Tensor, k: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What is clustered at the level of blocks of a size: the right blocks' queries and the left blocks' keys.

    q [B, Hq, N, D] and k [B, Hk, N, D] as [pairs, B Hq, size, D] and [pairs, B Hk, size, D]; views where batch and
    heads have one stride.
    """
    return tuple(sides(size, "rl", q.flatten(0, 1), k.flatten(0, 1)))


def causal_leaves(q: Tensor, k: Tensor, v: Tensor, block: int, scale: float) -> tuple[Tensor, Tensor]:
    """The blocks on the diagonal, exactly: what `muse_causal` begins with, for callers who run it beside their
    clustering. out [B Hq, N, Dv], lse [B Hq, N, 1] fp32, without a derivative; shapes otherwise as there."""
    check_tensors("causal_leaves", q=q, k=k, v=v)
    check_attention("causal_leaves", q, k, v)
    q, k, v = (x.detach() for x in flat_heads(*one_head_size(q, k, v)))
    inputs = [_blocks(x, block) for x in (q, k, v)]
    if by_cudnn.fits(*inputs):
        out, lse = by_cudnn.attend(*inputs, scale)
        return _whole(out), _whole(lse[..., None])
    out = torch.empty(*q.shape[:2], v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(*q.shape[:2], 1, dtype=torch.float32, device=q.device)
    to, to_lse = (_blocks(x, block) for x in (out, lse))
    leaf_into(to, to_lse[..., 0], *inputs, scale, precision=fp32_precision(q))
    return out, lse


def muse_causal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    clusters: Sequence[LevelClusters],
    block: int,
    scale: float,
    near: int = 0,
    leaves: tuple[Tensor, Tensor] | None = None,
    run: Run = run_now,
) -> tuple[Tensor, Tensor]:
    """Causal attention by the block recursion, with a monopole; differentiable in q, k and v.

    (out, lse) = leaf(blocks); then at every level muse(right blocks over their left neighbours) is merged in.

    Parameters
    ----------
    q : [B, Hq, N, D], k : [B, Hk, N, D], v : [B, Hk, N, Dv] of one dtype, N = block * 2^levels; without copies where
        B = 1 or batch and heads have one stride.
    clusters : for every level, from blocks of that size up, centroids, order and offsets of the queries, and order and
        offsets of the keys, of what `level_blocks` gives for block * 2^level. Constants of the backward.
    block : the positions of a leaf; as often as there are levels they are doubled.
    near : key clusters that every query cluster sums exactly.
    leaves : what `causal_leaves` returned for the same arguments, of no use afterwards; None computes it.
    run : what computes the gradients, of a name, a function and its tensors.

    Returns
    -------
    out [B, Hq, N, Dv] in the dtype of q, lse [B, Hq, N] fp32.

    Bytes and operations: of `leaf`, and for every level `summarise` and `evaluate` of N / 2.
    """
    check_tensors("muse_causal", q=q, k=k, v=v)
    check_attention("muse_causal", q, k, v)
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"muse_causal: q has {q.shape[2]} positions and k {k.shape[2]}; one number is needed"
        )
    if q.shape[2] != block << len(clusters):
        raise ValueError(
            f"q has {q.shape[2]} positions; block * 2^levels, {block << len(clusters)}, is needed"
        )
    for level, of_level in enumerate(clusters):
        _check_level(q, k, block << level, level, *of_level)
    (B, Hq, N, _), size = q.shape, v.shape[-1]
    leaves = causal_leaves(q, k, v, block, scale) if leaves is None else leaves
    out, lse = (x.contiguous().detach() for x in leaves)  # those of the caller stay outside the graph
    q, k, v, *centroids = one_head_size(q, k, v, *(c.detach().to(q.dtype) for c, *_ in clusters))
    check_given("muse_causal", q.dtype, q, leaves=(out, (B * Hq, N, v.shape[-1])))
    check_given("muse_causal", torch.float32, q, leaves=(lse, (B * Hq, N, 1)))
    clusters = [(c, *sorts) for c, (_, *sorts) in zip(centroids, clusters, strict=True)]
    out, lse = _Causal.apply(
        *flat_heads(q, k, v), (out, lse), clusters, block, scale, near, fp32_precision(q), run
    )
    return out.view(B, Hq, N, -1)[..., :size], lse.view(B, Hq, N)


def flat_heads(*tensors: Tensor) -> list[Tensor]:
    """[B H, N, D]: batch entries become heads. Groups stay together, and every block is then a view."""
    return [row_strided(x.reshape(-1, *x.shape[2:])) for x in tensors]


def _check_level(
    q: Tensor, k: Tensor, size: int, level: int, centroids: Tensor, q_order: Tensor, q_offsets: Tensor,
    k_order: Tensor, k_offsets: Tensor,
) -> None:  # fmt: skip
    """Raise where the clusters of a level do not fit q [B, Hq, N, D] and k [B, Hk, N, D] in pairs of blocks."""
    pairs, Hq, Hk = q.shape[2] // (2 * size), q.shape[0] * q.shape[1], k.shape[0] * k.shape[1]
    Cq, Ck = q_offsets.shape[-1] - 1, k_offsets.shape[-1] - 1
    check_given(
        f"muse_causal, level {level}", torch.int64, q, q_order=(q_order, (pairs, Hq, size)),
        q_offsets=(q_offsets, (pairs, Hq, Cq + 1)), k_order=(k_order, (pairs, Hk, size)),
        k_offsets=(k_offsets, (pairs, Hk, Ck + 1)),
    )  # fmt: skip
    if tuple(centroids.shape) != (pairs, Hq, Cq, q.shape[-1]):
        raise ValueError(
            f"muse_causal, level {level}: centroids have shape {tuple(centroids.shape)}; "
            f"{(pairs, Hq, Cq, q.shape[-1])} is needed"
        )


class _Causal(KernelFunction):
    operation = "muse_causal"

    @staticmethod
    def forward(ctx, q, k, v, leaves, clusters, block, scale, near, precision, run):
        out, lse = leaves
        levels = [sides(block << level, "rllrr", q, k, v, out, lse) for level in range(len(clusters))]

        def level_summaries(ks: Tensor, vs: Tensor, centroids: Tensor, *sorts: Tensor) -> tuple:
            mass, *means = summarise(centroids, ks, vs, *sorts[2:], scale, precision=precision)
            near_far = select_near(mass, near)[:2] if near else (mass.new_empty(0, dtype=torch.int32), mass)
            return *near_far, *means

        found = in_branches(
            [
                partial(level_summaries, ks, vs, *of_level)
                for (_, ks, vs, *_), of_level in zip(levels, clusters, strict=True)
            ]
        )
        for (*inputs, to, to_lse), of_level, summaries in zip(levels, clusters, found, strict=True):
            into = to, to_lse[..., 0]
            evaluate(*inputs, *of_level, *summaries, scale, precision=precision, into=into)
        ctx.save_for_backward(q, k, v, out, lse, *(x for of_level in clusters for x in of_level))
        ctx.block, ctx.scale, ctx.near, ctx.precision, ctx.run = block, scale, near, precision, run
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        if dout is None and dlse is None:
            return (None,) * 10
        dout = torch.zeros_like(ctx.saved_tensors[3]) if dout is None else dout
        dlse = () if dlse is None else (dlse,)
        settings = ctx.block, ctx.scale, ctx.near, ctx.precision
        name = "muse_causal backward", len(dlse), *settings
        grads = ctx.run(name, partial(causal_gradients, settings, len(dlse)), *ctx.saved_tensors, dout, *dlse)
        return *grads, *(None,) * 7


def causal_gradients(settings: tuple, with_lse: int, *tensors: Tensor) -> tuple[Tensor, ...]:
    """dq, dk and dv of q, k, v, out, lse, the clusters of every level, the gradient of out, and that of lse if there
    is one."""
    block, scale, near, precision = settings
    q, k, v, out, lse, *kept = tensors[: -1 - with_lse]
    dout, dlse = row_strided(tensors[-1 - with_lse]), tensors[-1] if with_lse else None
    flat_dlse = None if dlse is None else dlse[None, ..., 0]
    delta = output_delta(out[None], dout[None], flat_dlse)[0, ..., None]
    *inputs, to, to_lse, do = (_blocks(x, block) for x in (q, k, v, out, lse, dout))
    dlse = None if dlse is None else _blocks(dlse, block)[..., 0]

    def leaf_parts() -> tuple[Tensor, ...]:
        if dlse is None and by_cudnn.fits_backward(*inputs):
            return by_cudnn.gradients(*inputs, to, to_lse[..., 0], do, scale)
        seen = to.contiguous(), to_lse[..., 0].contiguous()
        return leaf_backward(*inputs, None, None, *seen, do, dlse, scale, True, None, precision)

    def level_parts(level: int) -> tuple[Tensor, ...]:
        of_level = kept[5 * level : 5 * level + 5]
        qs, ks, vs, do, at_lse, at_delta = sides(block << level, "rllrrr", q, k, v, dout, lse, delta)
        mass, *means = summarise(of_level[0], ks, vs, *of_level[3:], scale, precision=precision)
        grads = muse_backward(
            qs, ks, vs, *of_level, mass, *select_near(mass, near), *means, None, at_lse[..., 0].contiguous(), do,
            None, scale, None, None, None, precision, at_delta[..., 0].contiguous(),
        )  # fmt: skip
        return grads[:3]

    of_leaves, *of_levels = in_branches(
        [leaf_parts, *(partial(level_parts, level) for level in range(len(kept) // 5))]
    )
    dq, dk, dv = zip(of_leaves, *of_levels, strict=True)
    return level_sum(*dq, right=True), level_sum(*dk, right=False), level_sum(*dv, right=False)


def _blocks(x: Tensor, size: int) -> Tensor:
    """[H, N, D] as the view [N / size, H, size, D]."""
    return x.unflatten(1, (-1, size)).transpose(0, 1)


def _whole(x: Tensor) -> Tensor:
    """The way back from `_blocks`, without a copy where the memory is still that of [H, N, D]."""
    return x.transpose(0, 1).flatten(1, 2)


def sides(size: int, which: str, *tensors: Tensor) -> list[Tensor]:
    """Of every pair of blocks of each [H, N, D], the left or right one ("l", "r"): views [pairs, H, size, D]."""
    return [
        x.unflatten(1, (-1, 2, size))[:, :, "lr".index(side)].transpose(0, 1)
        for side, x in zip(which, tensors, strict=True)
    ]
