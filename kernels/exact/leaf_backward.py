"""Backward of `leaf`, as in flash attention: along the keys for dq, along the queries for dk and dv."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.delta import delta_of_rows
from ..common.launch import launch, target_of
from ..common.layout import row_strided
from ..common.online import load_lse
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import choose
from ..common.visible import NO_BAND, Band, keys_in_sight, mask_kind, queries_in_sight, visible


@triton.jit
def leaf_query_grad_kernel(
    q, k, v, valid, bias, out, lse, dout, dlse, delta, dq, sink_grads, scale,
    q_strides, k_strides, v_strides, dout_strides, sizes, band, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, BIASED: tl.constexpr, BANDED: tl.constexpr, SINKS: tl.constexpr, DLSE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head
    HQ, G, NQ, NK, TILES = sizes
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_m = (TILES - 1 - tl.program_id(0) % TILES) * BM
    i_b, i_h = i_head // HQ, i_head % HQ
    o_m, o_n = i_m + tl.arange(0, BM), tl.arange(0, BN)
    m_m, b_m = o_m < NQ, o_m.to(tl.int64)
    p_q, p_dout = of_head(q, q_strides, i_b, i_h), of_head(dout, dout_strides, i_b, i_h)
    p_k, p_v = of_head(k, k_strides, i_b, i_h // G), of_head(v, v_strides, i_b, i_h // G)
    b_q = load_rows(p_q, b_m, m_m, q_strides[2], D, BD)
    b_do = load_rows(p_dout, b_m, m_m, dout_strides[2], DV, BDV)
    b_o = load_rows(out, i_head * NQ + b_m, m_m, DV, DV, BDV)
    b_delta = delta_of_rows(b_o, b_do, dlse, i_head * NQ + o_m, m_m, DLSE)
    tl.store(delta + i_head * NQ + o_m, b_delta, mask=m_m)
    b_lse = load_lse(lse, i_head * NQ + o_m, m_m)
    b_dq = tl.zeros([BM, BD], dtype=tl.float32)
    i_last, i_sinks, i_gap = keys_in_sight(i_m, band, NQ, NK, BM, BN, CAUSAL, BANDED)
    for i in range(0, i_last, BN):
        b_n = (i + o_n).to(tl.int64)
        if BANDED:
            b_n += tl.where(i < i_sinks, 0, i_gap)
        m_n = b_n < NK
        b_k = load_rows(p_k, b_n, m_n, k_strides[2], D, BD)
        b_v = load_rows(p_v, b_n, m_n, v_strides[2], DV, BDV)
        m_s = visible(valid, i_b, o_m[:, None], b_n[None, :], band, NQ, NK, CAUSAL, MASKED, BANDED)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
        if BIASED:
            b_s += tl.load(bias + i_b * NK + b_n, mask=m_n, other=0.0)[None, :]
        b_w = tl.where(m_s, tl.exp(b_s - b_lse[:, None]), 0.0)  # [BM, BN]
        b_ds = b_w * (tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
        if (
            SINKS
        ):  # what these queries give to them: a program for the sinks would have to go through all queries
            sink_dk, sink_dv = sink_grads
            b_row, m_sink = tl.program_id(0).to(tl.int64) * band[2] + b_n, b_n < band[2]
            if i < i_sinks:
                b_dk = tl.dot(tl.trans(b_ds).to(b_q.dtype), b_q, input_precision=PRECISION)
                b_dv = tl.dot(tl.trans(b_w).to(b_do.dtype), b_do, input_precision=PRECISION)
                store_rows(sink_dk, b_row, m_sink, D, b_dk * scale, D, BD)
                store_rows(sink_dv, b_row, m_sink, DV, b_dv, DV, BDV)
    store_rows(dq, i_head * NQ + b_m, m_m, D, b_dq * scale, D, BD)


@triton.jit
def leaf_key_grad_kernel(
    q, k, v, valid, bias, lse, dout, delta, dk, dv, scale,
    q_strides, k_strides, v_strides, dout_strides, sizes, band, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, BIASED: tl.constexpr, BANDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM keys of one key head, over the queries of all heads of its group
    HK, G, NQ, NK, TILES = sizes
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_m = (tl.program_id(0) % TILES) * BM
    i_b, i_h = i_head // HK, i_head % HK
    o_m, o_n = i_m + tl.arange(0, BM), tl.arange(0, BN)
    m_m, b_m = o_m < NK, o_m.to(tl.int64)
    p_k, p_v = of_head(k, k_strides, i_b, i_h), of_head(v, v_strides, i_b, i_h)
    b_k = load_rows(p_k, b_m, m_m, k_strides[2], D, BD)
    b_v = load_rows(p_v, b_m, m_m, v_strides[2], DV, BDV)
    b_bias = tl.zeros([BM], dtype=tl.float32)
    if BIASED:
        b_bias = tl.load(bias + i_b * NK + o_m, mask=m_m, other=0.0)
    b_dk = tl.zeros([BM, BD], dtype=tl.float32)
    b_dv = tl.zeros([BM, BDV], dtype=tl.float32)
    i_first, i_last = queries_in_sight(i_m, band, NQ, NK, BM, BN, CAUSAL, BANDED)
    for i_g in range(0, G):
        i_hq = i_head * G + i_g  # row of the query head over the whole batch
        p_q = of_head(q, q_strides, i_b, i_h * G + i_g)
        p_dout = of_head(dout, dout_strides, i_b, i_h * G + i_g)
        for i in range(i_first, i_last, BN):
            b_n = (i + o_n).to(tl.int64)
            m_n = b_n < NQ
            b_q = load_rows(p_q, b_n, m_n, q_strides[2], D, BD)
            b_do = load_rows(p_dout, b_n, m_n, dout_strides[2], DV, BDV)
            b_lse = load_lse(lse, i_hq * NQ + b_n, m_n)
            b_delta = tl.load(delta + i_hq * NQ + b_n, mask=m_n, other=0.0)
            m_s = visible(valid, i_b, b_n[None, :], o_m[:, None], band, NQ, NK, CAUSAL, MASKED, BANDED)
            b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * scale  # [BM, BN]
            if BIASED:
                b_s += b_bias[:, None]
            b_w = tl.where(m_s, tl.exp(b_s - b_lse[None, :]), 0.0)
            b_ds = b_w * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
            b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
            b_dv = tl.dot(b_w.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
    store_rows(dk + i_head * NK * D, b_m, m_m, D, b_dk * scale, D, BD)
    store_rows(dv + i_head * NK * DV, b_m, m_m, DV, b_dv, DV, BDV)


def leaf_backward(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, bias: Tensor | None, out: Tensor, lse: Tensor,
    dout: Tensor, dlse: Tensor | None, scale: float, causal: bool, band: Band | None, precision: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v, shapes as in `leaf`.

    P = exp(s q.k + b - lse), ds = P (do.v - delta), delta = do.out - dlse;  dq = s sum_n ds k_n,
    dk = s sum_m ds q_m,  dv = sum_m P do_m.

    Bytes: every tensor once, and K, V (then q, dout) once for every tile of the other side (L2).
    Operations: B Hq Nq Nk (8 D + 6 Dv), half when causal; in a band with its keys instead of Nk. What all queries give
    to the sinks is added up over the tiles of queries.
    """
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv = k.shape[1], k.shape[2], v.shape[-1]
    dout = row_strided(dout)
    BD, BDV = power_of_two(D), power_of_two(Dv)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    delta = torch.empty_like(lse)
    strides = [x.stride()[:3] for x in (q, k, v, dout)]
    constants = {
        "BD": BD, "BDV": BDV, "CAUSAL": causal, "MASKED": mask_kind(valid), "BIASED": bias is not None,
        "BANDED": band is not None, "PRECISION": precision,
    }  # fmt: skip
    head, width, target = max(BD, BDV), q.element_size(), target_of(q)
    valid, bias, band = q if valid is None else valid, q if bias is None else bias, band or NO_BAND
    tile = choose("leaf_query_grad", target, head, width)
    tiles = cdiv(Nq, tile.rows)
    sinks, sink_grads = band.sinks, (dq, dq)
    if sinks:  # of every tile of queries; what no tile sees stays zero
        shape = B, Hk, Hq // Hk * tiles, sinks
        sink_grads = tuple(torch.zeros(*shape, n, dtype=torch.float32, device=q.device) for n in (D, Dv))
    launch(
        leaf_query_grad_kernel, (B * Hq * tiles,),
        q, k, v, valid, bias, out, lse, dout, delta if dlse is None else dlse.contiguous(), delta, dq, sink_grads,
        scale, *strides, (Hq, Hq // Hk, Nq, Nk, tiles), band, D, Dv,
        BM=tile.rows, BN=tile.cols, SINKS=sinks > 0, DLSE=dlse is not None, **constants, tile=tile,
    )  # fmt: skip
    tile = choose("leaf_key_grad", target, head, width)
    tiles = cdiv(Nk, tile.rows)
    launch(
        leaf_key_grad_kernel, (B * Hk * tiles,),
        q, k, v, valid, bias, lse, dout, delta, dk, dv, scale, *strides, (Hk, Hq // Hk, Nq, Nk, tiles), band, D, Dv,
        BM=tile.rows, BN=tile.cols, **constants, tile=tile,
    )  # fmt: skip
    if sinks:
        dk[:, :, :sinks], dv[:, :, :sinks] = (x.sum(2) for x in sink_grads)
    return dq, dk, dv
