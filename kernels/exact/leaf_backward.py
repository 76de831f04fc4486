"""Backward of `leaf`, as in flash attention: along the keys for dq, along the queries for dk and dv."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import launch, target_of
from ..common.layout import row_strided
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import choose
from ..common.visible import mask_kind, visible


@triton.jit
def _query_kernel(
    q, k, v, valid, bias, out, lse, dout, dlse, delta, dq, scale,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_ob, stride_oh, stride_on,
    HQ, G, NQ, NK, D: tl.constexpr, DV: tl.constexpr, TILES,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BIASED: tl.constexpr, DLSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_m = (TILES - 1 - tl.program_id(0) % TILES) * BM
    i_b, i_h = i_head // HQ, i_head % HQ
    o_m, o_n, o_d, o_dv = i_m + tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
    m_m, m_d, m_dv = o_m < NQ, o_d < D, o_dv < DV
    o_row = o_m.to(tl.int64)[:, None]
    m_o = m_m[:, None] & m_dv[None, :]
    p_q = q + i_b * stride_qb + i_h * stride_qh + o_row * stride_qn + o_d[None, :]
    p_do = dout + i_b * stride_ob + i_h * stride_oh + o_row * stride_on + o_dv[None, :]
    p_k = k + i_b * stride_kb + (i_h // G) * stride_kh
    p_v = v + i_b * stride_vb + (i_h // G) * stride_vh
    b_q = tl.load(p_q, mask=m_m[:, None] & m_d[None, :], other=0.0)  # [BM, BD]
    b_do = tl.load(p_do, mask=m_o, other=0.0)  # [BM, BDV]
    b_o = tl.load(out + (i_head * NQ + o_row) * DV + o_dv[None, :], mask=m_o, other=0.0)
    b_delta = tl.sum(b_do.to(tl.float32) * b_o.to(tl.float32), axis=1)  # [BM]
    if DLSE:
        b_delta -= tl.load(dlse + i_head * NQ + o_m, mask=m_m, other=0.0).to(tl.float32)
    tl.store(delta + i_head * NQ + o_m, b_delta, mask=m_m)
    b_lse = tl.load(lse + i_head * NQ + o_m, mask=m_m, other=float("inf"))
    b_lse = tl.where(b_lse > float("-inf"), b_lse, float("inf"))
    b_dq = tl.zeros([BM, BD], dtype=tl.float32)
    i_last = NK
    if CAUSAL:
        i_last = tl.minimum(NK, i_m + BM + NK - NQ)
    for i in range(0, i_last, BN):
        b_n = (i + o_n).to(tl.int64)
        m_n = b_n < NK
        b_k = tl.load(
            p_k + b_n[:, None] * stride_kn + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
        )
        b_v = tl.load(
            p_v + b_n[:, None] * stride_vn + o_dv[None, :], mask=m_n[:, None] & m_dv[None, :], other=0.0
        )
        m_s = visible(valid, i_b, o_m[:, None], b_n[None, :], NQ, NK, CAUSAL, MASKED)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        if BIASED:
            b_s += tl.load(bias + i_b * NK + b_n, mask=m_n, other=0.0)[None, :]
        b_w = tl.where(m_s, tl.exp(b_s - b_lse[:, None]), 0.0)  # [BM, BN]
        b_ds = b_w * (tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    p_dq = dq + (i_head * NQ + o_row) * D + o_d[None, :]
    tl.store(p_dq, (b_dq * scale).to(b_q.dtype), mask=m_m[:, None] & m_d[None, :])


@triton.jit
def _key_kernel(
    q, k, v, valid, bias, lse, dout, delta, dk, dv, scale,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_ob, stride_oh, stride_on,
    HK, G, NQ, NK, D: tl.constexpr, DV: tl.constexpr, TILES,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM keys of one key head, over the queries of all heads of its group
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_m = (tl.program_id(0) % TILES) * BM
    i_b, i_h = i_head // HK, i_head % HK
    o_m, o_n, o_d, o_dv = i_m + tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
    m_m, m_d, m_dv = o_m < NK, o_d < D, o_dv < DV
    o_row = o_m.to(tl.int64)[:, None]
    m_md, m_mv = m_m[:, None] & m_d[None, :], m_m[:, None] & m_dv[None, :]
    p_k = k + i_b * stride_kb + i_h * stride_kh + o_row * stride_kn + o_d[None, :]
    p_v = v + i_b * stride_vb + i_h * stride_vh + o_row * stride_vn + o_dv[None, :]
    b_k = tl.load(p_k, mask=m_md, other=0.0)  # [BM, BD]
    b_v = tl.load(p_v, mask=m_mv, other=0.0)  # [BM, BDV]
    b_bias = tl.zeros([BM], dtype=tl.float32)
    if BIASED:
        b_bias = tl.load(bias + i_b * NK + o_m, mask=m_m, other=0.0)
    b_dk = tl.zeros([BM, BD], dtype=tl.float32)
    b_dv = tl.zeros([BM, BDV], dtype=tl.float32)
    i_first = 0
    if CAUSAL:  # the first query that sees the first of these keys
        i_first = tl.maximum(0, i_m - (NK - NQ)) // BN * BN
    for i_g in range(0, G):
        i_hq = i_head * G + i_g  # row of the query head over the whole batch
        p_q = q + i_b * stride_qb + (i_h * G + i_g) * stride_qh
        p_do = dout + i_b * stride_ob + (i_h * G + i_g) * stride_oh
        for i in range(i_first, NQ, BN):
            b_n = (i + o_n).to(tl.int64)
            m_n = b_n < NQ
            b_q = tl.load(
                p_q + b_n[:, None] * stride_qn + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
            )
            b_do = tl.load(
                p_do + b_n[:, None] * stride_on + o_dv[None, :], mask=m_n[:, None] & m_dv[None, :], other=0.0
            )
            b_lse = tl.load(lse + i_hq * NQ + b_n, mask=m_n, other=float("inf"))
            b_lse = tl.where(b_lse > float("-inf"), b_lse, float("inf"))
            b_delta = tl.load(delta + i_hq * NQ + b_n, mask=m_n, other=0.0)
            m_s = visible(valid, i_b, b_n[None, :], o_m[:, None], NQ, NK, CAUSAL, MASKED)
            b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * scale  # [BM, BN]
            if BIASED:
                b_s += b_bias[:, None]
            b_w = tl.where(m_s, tl.exp(b_s - b_lse[None, :]), 0.0)
            b_ds = b_w * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
            b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
            b_dv = tl.dot(b_w.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
    o_out = i_head * NK + o_row
    tl.store(dk + o_out * D + o_d[None, :], (b_dk * scale).to(b_k.dtype), mask=m_md)
    tl.store(dv + o_out * DV + o_dv[None, :], b_dv.to(b_v.dtype), mask=m_mv)


def leaf_backward(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, bias: Tensor | None, out: Tensor, lse: Tensor,
    dout: Tensor, dlse: Tensor | None, scale: float, causal: bool, precision: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v, shapes as in `leaf`.

    P = exp(s q.k + b - lse), ds = P (do.v - delta), delta = do.out - dlse;  dq = s sum_n ds k_n,
    dk = s sum_m ds q_m,  dv = sum_m P do_m.

    Bytes: every tensor once, and K, V (then q, dout) once for every tile of the other side (L2).
    Operations: B Hq Nq Nk (8 D + 6 Dv), half when causal.
    """
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv = k.shape[1], k.shape[2], v.shape[-1]
    dout = row_strided(dout)
    BD, BDV = power_of_two(D), power_of_two(Dv)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    delta = torch.empty_like(lse)
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *dout.stride()[:3])
    constants = {
        "BD": BD, "BDV": BDV, "CAUSAL": causal, "MASKED": mask_kind(valid), "BIASED": bias is not None,
        "PRECISION": precision,
    }  # fmt: skip
    head, width, target = max(BD, BDV), q.element_size(), target_of(q)
    valid, bias = q if valid is None else valid, q if bias is None else bias
    tile = choose("leaf_query_grad", target, head, width)
    tiles = cdiv(Nq, tile.rows)
    launch(
        _query_kernel, (B * Hq * tiles,),
        q, k, v, valid, bias, out, lse, dout, delta if dlse is None else dlse.contiguous(), delta, dq, scale,
        *strides, Hq, Hq // Hk, Nq, Nk, D, Dv, tiles,
        BM=tile.rows, BN=tile.cols, DLSE=dlse is not None, **constants, tile=tile,
    )  # fmt: skip
    tile = choose("leaf_key_grad", target, head, width)
    tiles = cdiv(Nk, tile.rows)
    launch(
        _key_kernel, (B * Hk * tiles,),
        q, k, v, valid, bias, lse, dout, delta, dk, dv, scale, *strides, Hk, Hq // Hk, Nq, Nk, D, Dv, tiles,
        BM=tile.rows, BN=tile.cols, **constants, tile=tile,
    )  # fmt: skip
    return dq, dk, dv
