"""Causal MuSe in one pass: exact leaves on the diagonal, and every level of blocks above merged into their result.

All partials of a query share one output and one log-sum-exp, in place. The backward needs no more than those: with the
log-sum-exp over all keys every level's part of the softmax is right as it stands, so each is differentiated alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..by_query.evaluate import evaluate_by_query
from ..common.checks import check_attention, check_given, check_sorts, check_tensors
from ..common.delta import output_delta
from ..common.derivatives import KernelFunction, Run, check_tangents, run_now
from ..common.graphs import beside, in_branches, moments
from ..common.launch import fp32_precision
from ..common.layout import blocks_of, flat_heads, level_blocks, row_strided, sides, whole_of
from ..exact import by_cudnn
from ..exact.leaf import leaf_into
from ..exact.leaf_backward import leaf_backward
from .backward import muse_backward
from .evaluate import evaluate
from .forward import one_head_size
from .levels import join_levels, level_sum
from .select import near_and_far, select_near
from .summarise import summarise

# Of one level: centroids of the queries [pairs, B Hq, C, D], then order and offsets of the queries and of the keys.
LevelClusters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
# So many levels at most have results of their own, of which one takes half of the memory of the whole result.
APART = 2


def causal_leaves(q: Tensor, k: Tensor, v: Tensor, block: int, scale: float) -> tuple[Tensor, Tensor]:
    """The blocks on the diagonal, exactly: what `muse_causal` begins with, for callers who run it beside their
    clustering. out [B Hq, N, Dv], lse [B Hq, N, 1] fp32, without a derivative; shapes otherwise as there."""
    check_tensors("causal_leaves", q=q, k=k, v=v)
    check_attention("causal_leaves", q, k, v)
    q, k, v = (x.detach() for x in flat_heads(*one_head_size(q, k, v)))
    inputs = [blocks_of(x, block) for x in (q, k, v)]
    if by_cudnn.fits(*inputs):
        out, lse = by_cudnn.attend(*inputs, scale)
        return whole_of(out), whole_of(lse[..., None])
    out = torch.empty(*q.shape[:2], v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(*q.shape[:2], 1, dtype=torch.float32, device=q.device)
    to, to_lse = (blocks_of(x, block) for x in (out, lse))
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
    if not q.shape[2] == k.shape[2] == (needed := block << len(clusters)):
        given = f"q has {q.shape[2]} positions and k {k.shape[2]}"
        raise ValueError(f"muse_causal: {given}; block * 2^levels, {needed}, is needed of both")
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


def muse_causal_found(
    q: Tensor, k: Tensor, v: Tensor, find: Callable[[Tensor, Tensor], LevelClusters], block: int, levels: int,
    scale: float, near: int = 0, by_query: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result of `muse_causal` without a derivative, where `find` clusters what `level_blocks` gives.

    With `by_query` every query chooses its near clusters for itself.
    In a CUDA graph the leaves and every level's clusters and summaries come about beside each other. Leaves fill the
    device for long, and clusters are a chain of short launches, which therefore begins: the leaves follow where the
    chain comes to its longest launch, of few programs. Up to `APART` levels are evaluated beside each other too, and
    more of them, which fill a device, in the place of the result.
    """
    check_tangents("muse_causal", q, k, v)
    (B, Hq, N, _), size, precision = q.shape, v.shape[-1], fp32_precision(q)
    flat = flat_heads(*one_head_size(q.detach(), k.detach(), v.detach()))

    def level_parts(level: int) -> tuple[list[Tensor], LevelClusters, tuple[Tensor, ...]]:
        centroids, *sorts = find(*level_blocks(q.detach(), k.detach(), block << level))
        _check_level(q, k, block << level, level, centroids, *sorts)
        of_level = one_head_size(q, k, v, centroids.to(q.dtype))[-1], *sorts
        inputs = sides(block << level, "rll", *flat)
        parts = inputs, of_level, _summaries(*inputs[1:], of_level, scale, near, precision, by_query)
        return *parts, evaluated(*parts, None, scale, precision) if apart else None

    evaluated = partial(_evaluate_level, near=near) if by_query else _evaluate_level
    apart = 0 < levels <= APART
    with moments() as marked:
        found = [beside(partial(level_parts, level), urgent=True) for level in range(levels)]
    if marked:
        torch.cuda.current_stream().wait_event(marked[0])
    out, lse = (x.contiguous() for x in causal_leaves(q, k, v, block, scale))
    found = [wait() for wait in found]  # all of them are kept until the last one is there
    if apart:
        join_levels(out, lse, *zip(*(part for *_, part in found), strict=True))
    else:
        for level, (*parts, _) in enumerate(found):
            evaluated(*parts, sides(block << level, "rr", out, lse), scale, precision)
    return out.view(B, Hq, N, -1)[..., :size], lse.view(B, Hq, N)


def _check_level(
    q: Tensor, k: Tensor, size: int, level: int, centroids: Tensor, q_order: Tensor, q_offsets: Tensor,
    k_order: Tensor, k_offsets: Tensor,
) -> None:  # fmt: skip
    """Raise where the clusters of a level do not fit q [B, Hq, N, D] and k [B, Hk, N, D] in pairs of blocks."""
    pairs, Hq, Hk = q.shape[2] // (2 * size), q.shape[0] * q.shape[1], k.shape[0] * k.shape[1]
    Cq, sorts = q_offsets.shape[-1] - 1, (q_order, q_offsets, k_order, k_offsets)
    check_sorts(f"muse_causal, level {level}", q, (pairs, Hq, size), (pairs, Hk, size), *sorts)
    if tuple(centroids.shape) != (pairs, Hq, Cq, q.shape[-1]):
        raise ValueError(
            f"muse_causal, level {level}: centroids have shape {tuple(centroids.shape)}; "
            f"{(pairs, Hq, Cq, q.shape[-1])} is needed"
        )


def _summaries(
    ks: Tensor, vs: Tensor, of_level: LevelClusters, scale: float, near: int, precision: str, by_query: bool = False
) -> tuple[Tensor, ...]:  # fmt: skip
    """Of the keys and values of one level: near, far (masses, where queries choose), and the tilted means."""
    mass, *means = summarise(of_level[0], ks, vs, *of_level[3:], scale, precision=precision)
    if by_query:
        return mass, *means
    return *near_and_far(mass, near), *means


def _evaluate_level(
    inputs: Sequence[Tensor], of_level: LevelClusters, summaries: Sequence[Tensor], into: Sequence[Tensor] | None,
    scale: float, precision: str, near: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the queries of one level see, merged into their out and lse if given; with `near` each chooses so many."""
    given = *inputs, *of_level, *summaries, scale
    last = {"precision": precision, "padded": False, "into": into and (into[0], into[1][..., 0])}
    return evaluate_by_query(*given, near, **last) if near else evaluate(*given, **last)[:2]


class _Causal(KernelFunction):
    operation = "muse_causal"

    @staticmethod
    def forward(ctx, q, k, v, leaves, clusters, block, scale, near, precision, run):
        out, lse = leaves
        levels = [sides(block << level, "rllrr", q, k, v, out, lse) for level in range(len(clusters))]
        found = in_branches(
            [
                partial(_summaries, ks, vs, of_level, scale, near, precision)
                for (_, ks, vs, *_), of_level in zip(levels, clusters, strict=True)
            ]
        )
        for (*inputs, to, to_lse), of_level, summaries in zip(levels, clusters, found, strict=True):
            _evaluate_level(inputs, of_level, summaries, (to, to_lse), scale, precision)
        ctx.save_for_backward(q, k, v, out, lse, *(x for of_level in clusters for x in of_level))
        ctx.block, ctx.scale, ctx.near, ctx.precision, ctx.run = block, scale, near, precision, run
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
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
    *inputs, to, to_lse, do = (blocks_of(x, block) for x in (q, k, v, out, lse, dout))
    dlse = None if dlse is None else blocks_of(dlse, block)[..., 0]

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
