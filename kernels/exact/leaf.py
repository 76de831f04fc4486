"""Exact attention, causal, full or in a band, with its log-sum-exp: the leaves of the causal recursion, and windows."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_attention, check_given, check_tensors
from ..common.derivatives import KernelFunction, Run, run_now
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.online import softmax_lse, softmax_mean, softmax_start, softmax_step
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from ..common.visible import NO_BAND, Band, keys_in_sight, mask_kind, visible
from . import by_cudnn
from .leaf_backward import leaf_backward


@triton.jit
def leaf_kernel(
    q, k, v, valid, bias, out, lse, scale,
    q_strides, k_strides, v_strides, out_strides, lse_strides, sizes, band, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, BIASED: tl.constexpr, BANDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head; the last tiles, which have the most keys, start first
    HQ, G, NQ, NK, TILES = sizes
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_m = (TILES - 1 - tl.program_id(0) % TILES) * BM
    i_b, i_h = i_head // HQ, i_head % HQ
    p_k, p_v = of_head(k, k_strides, i_b, i_h // G), of_head(v, v_strides, i_b, i_h // G)
    o_m, o_n = i_m + tl.arange(0, BM), tl.arange(0, BN)
    m_m, b_m = o_m < NQ, o_m.to(tl.int64)
    b_q = load_rows(of_head(q, q_strides, i_b, i_h), b_m, m_m, q_strides[2], D, BD)
    b_out, b_max, b_sum = softmax_start(BM, BDV)
    i_last, i_sinks, i_gap = keys_in_sight(i_m, band, NQ, NK, BM, BN, CAUSAL, BANDED)
    for i in range(0, i_last, BN):
        b_n = (i + o_n).to(tl.int64)
        if BANDED:
            b_n += tl.where(i < i_sinks, 0, i_gap)
        m_n = b_n < NK
        b_k = load_rows(p_k, b_n, m_n, k_strides[2], D, BD)
        b_v = load_rows(p_v, b_n, m_n, v_strides[2], DV, BDV)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale  # [BM, BN]
        if BIASED:
            b_s += tl.load(bias + i_b * NK + b_n, mask=m_n, other=0.0)[None, :]
        m_s = visible(valid, i_b, o_m[:, None], b_n[None, :], band, NQ, NK, CAUSAL, MASKED, BANDED)
        b_s = tl.where(m_s, b_s, float("-inf"))
        b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
    p_out, p_lse = of_head(out, out_strides, i_b, i_h), of_head(lse, lse_strides, i_b, i_h)
    store_rows(p_out, b_m, m_m, out_strides[2], softmax_mean(b_out, b_sum), DV, BDV)
    tl.store(p_lse + b_m, softmax_lse(b_max, b_sum), mask=m_m)


def leaf(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool = True,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
    band: Band | None = None,
    tile: Tile | None = None,
    precision: str | None = None,
    run: Run = run_now,
) -> tuple[Tensor, Tensor]:
    """Exact attention in one online softmax; differentiable in q, k and v.

    out_m = sum_n softmax_n(s q_m.k_n + b_n) v_n and lse_m = log sum_n exp(s q_m.k_n + b_n), over all n, or,
    causal, over n <= m + Nk - Nq: the queries are the last Nq positions. In a band, over those of these n that are
    sinks or stand between m + Nk - Nq - behind and m + Nk - Nq + ahead; tiles of keys outside are not read.

    Parameters
    ----------
    q : [B, Hq, Nq, D], k : [B, Hk, Nk, D], v : [B, Hk, Nk, Dv]; any strides.
    valid : [B, Nk], or [B, Nq, Nk] for every query its own; bool, False for keys to leave out.
    bias : b [B, Nk] fp32, a constant of the backward; -inf leaves a key out. None for zero.
    band : the window, None for all keys.
    run : what computes the result and the gradients, of a name, a function and its tensors.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32; a query that sees no key has out 0, lse -inf.

    Bytes: q and out once, K and V once for every tile of queries (L2). Operations: 2 B Hq Nq Nk (D + Dv),
    half when causal; the backward 2.5 times as many. In a band with its keys and the sinks instead of Nk.

    Raises
    ------
    ValueError, TypeError : for shapes and dtypes other than these, and for a bias of which a gradient is asked.
    """
    check_tensors("leaf", q=q, k=k, v=v)
    check_attention("leaf", q, k, v)
    (B, _, Nq, _), Nk = q.shape, k.shape[2]
    by_pair = valid is not None and valid.ndim == 3
    check_given("leaf", torch.bool, q, valid=(valid, (B, Nq, Nk) if by_pair else (B, Nk)))
    check_given("leaf", torch.float32, q, bias=(bias, (B, Nk)))
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        raise ValueError("leaf: bias requires a gradient, of which the backward knows nothing; detach it")
    q, k, v = row_strided(q), row_strided(k), row_strided(v)
    valid, bias = (None if x is None else x.contiguous() for x in (valid, bias))
    if band is not None:
        band = band._replace(sinks=min(band.sinks, Nk))
    settings = scale, causal, band, tile, precision or fp32_precision(q)
    return _Leaf.apply(q, k, v, valid, bias, settings, run)


def leaf_into(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = True,
    valid: Tensor | None = None, bias: Tensor | None = None, band: Band | None = None, tile: Tile | None = None,
    precision: str | None = None,
) -> None:  # fmt: skip
    """The forward of `leaf`, written to out and lse of any strides with the last dimension contiguous."""
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv = k.shape[1], k.shape[2], v.shape[-1]
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("leaf", target_of(q), max(BD, BDV), q.element_size(), tile)
    tiles = cdiv(Nq, tile.rows)
    launch(
        leaf_kernel, (B * Hq * tiles,),
        q, k, v, q if valid is None else valid, q if bias is None else bias, out, lse, scale,
        q.stride()[:3], k.stride()[:3], v.stride()[:3], out.stride()[:3], lse.stride()[:2],
        (Hq, Hq // Hk, Nq, Nk, tiles), band or NO_BAND, D, Dv, BD=BD, BDV=BDV, BM=tile.rows, BN=tile.cols,
        CAUSAL=causal, MASKED=mask_kind(valid), BIASED=bias is not None, BANDED=band is not None,
        PRECISION=precision or fp32_precision(q), tile=tile,
    )  # fmt: skip


class _Leaf(KernelFunction):
    operation = "leaf"

    @staticmethod
    def forward(ctx, q, k, v, valid, bias, settings, run):
        given, masks = _given(valid, bias)
        out, lse = run(("leaf", settings, given), partial(_result, settings, given), q, k, v, *masks)
        ctx.save_for_backward(q, k, v, valid, bias, out, lse)
        ctx.settings, ctx.run = settings, run
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, valid, bias, out, lse = ctx.saved_tensors
        dout = torch.zeros_like(out) if dout is None else dout
        given, others = _given(dlse, valid, bias)
        gradients = partial(_gradients, ctx.settings, given)
        grads = ctx.run(("leaf gradients", ctx.settings, given), gradients, q, k, v, out, lse, dout, *others)
        return *grads, *(None,) * 4


def _given(*tensors: Tensor | None) -> tuple[tuple[bool, ...], list[Tensor]]:
    """Which of the tensors there are, and those."""
    return tuple(x is not None for x in tensors), [x for x in tensors if x is not None]


def _taken(given: tuple[bool, ...], tensors: tuple[Tensor, ...]) -> list[Tensor | None]:
    """The way back from `_given`."""
    rest = iter(tensors)
    return [next(rest) if there else None for there in given]


def _a_triangle(settings: tuple, given: tuple[bool, ...]) -> bool:
    """Whether the triangle below the diagonal is all that is asked for, and no tile of ours."""
    _, causal, band, tile, _ = settings
    return causal and band is None and tile is None and not any(given)


def _result(settings: tuple, given: tuple[bool, ...], q, k, v, *masks) -> tuple[Tensor, Tensor]:
    scale, causal, band, tile, precision = settings
    if _a_triangle(settings, given) and by_cudnn.fits(q, k, v):
        return by_cudnn.attend(q, k, v, scale)
    out = torch.empty(*q.shape[:3], v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    leaf_into(out, lse, q, k, v, scale, causal, *_taken(given, masks), band, tile, precision)
    return out, lse


def _gradients(settings: tuple, given: tuple[bool, ...], q, k, v, out, lse, dout, *others):
    scale, causal, band, _, precision = settings
    if _a_triangle(settings, given) and by_cudnn.fits_backward(q, k, v):
        return by_cudnn.gradients(q, k, v, out, lse, dout, scale)
    dlse, valid, bias = _taken(given, others)
    return leaf_backward(q, k, v, valid, bias, out, lse, dout, dlse, scale, causal, band, precision)
