"""Gradient of the queries of MuSe: from the far field, the near field, the dipole and their cluster's centroid."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.expansion import displacement
from ..common.members import cluster_span, find_tile, member_rows
from ..common.online import load_lse
from ..common.rows import load_columns, load_row, load_rows, of_head, store_rows


@triton.jit
def muse_query_grad_kernel(
    q, k, v, centroids, q_members, k_members, summaries, dipole, lse, dout, delta, delta_far, d_centroids, dq,
    scale, q_strides, k_strides, v_strides, dout_strides, sizes, D: tl.constexpr, DV: tl.constexpr,
    R: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BINS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, DIPOLE: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq = s sum_far ds k~ + s sum_near ds k_n + s share U Z do + dp_i / n_i, for one tile of queries."""
    HQ, G, NQ, NK, CQ, CK, NEAR, TILES = sizes
    q_order, q_offsets = q_members
    k_order, k_offsets = k_members
    near, far, mean_k, mean_v = summaries
    basis, moment, share = dipole
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_c, i_start, i_end = find_tile(q_offsets + i_head * (CQ + 1), tl.program_id(0) % TILES, CQ, BM, BINS)
    if i_start < i_end:
        i_b, i_h, i_kv, i_row = i_head // HQ, i_head % HQ, i_head // G, i_head * CQ + i_c
        p_q, p_do = of_head(q, q_strides, i_b, i_h), of_head(dout, dout_strides, i_b, i_h)
        p_k, p_v = of_head(k, k_strides, i_b, i_h // G), of_head(v, v_strides, i_b, i_h // G)
        o_n, o_d = tl.arange(0, BN), tl.arange(0, BD)
        b_n, m_m = member_rows(q_order + i_head * NQ, i_start, i_end, BM)
        b_dq = tl.zeros([BM, BD], dtype=tl.float32)
        if DIPOLE:  # first, while no registers hold q, d and do
            b_share = tl.load(share + i_head * NQ + b_n, mask=m_m, other=0.0)
            o_r = tl.arange(0, BR)
            b_dt = tl.zeros([BM, BR], dtype=tl.float32)
            for i_v in range(0, DV, 16):  # in short steps, as in `evaluate`
                b_x = load_rows(p_do, b_n, m_m, dout_strides[2], DV, 16, i_v)  # [BM, 16]
                b_z = load_columns(moment, i_row * R + o_r, o_r < R, DV, DV, 16, i_v)  # [16, BR]
                b_dt = tl.dot(b_x, b_z.to(b_x.dtype), b_dt, input_precision=PRECISION)
            b_dt = b_dt * b_share[:, None]
            if FULL:
                b_dq += b_dt
            else:
                b_u = load_columns(basis + i_row * D * R, o_d, o_d < D, R, R, BR)  # [BR, BD]
                b_dq = tl.dot(b_dt.to(b_u.dtype), b_u, b_dq, input_precision=PRECISION)
        b_q = load_rows(p_q, b_n, m_m, q_strides[2], D, BD)  # [BM, BD]
        b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))
        b_do = load_rows(p_do, b_n, m_m, dout_strides[2], DV, BDV)  # [BM, BDV]
        b_lse = load_lse(lse + i_head * NQ, b_n, m_m)
        b_far = tl.load(delta_far + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_delta = tl.load(delta + i_head * NQ + b_n, mask=m_m, other=0.0)
        for i in range(0, CK, BN):
            m_n, o_j = i + o_n < CK, i_row * CK + i + o_n
            b_a = tl.load(far + o_j, mask=m_n, other=float("-inf"))
            b_k = load_rows(mean_k, o_j, m_n, D, D, BD)
            b_v = load_rows(mean_v, o_j, m_n, DV, DV, BDV)
            b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)  # [BM, BN]
            b_ds = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_far[:, None]
            b_ds = tl.exp(b_s - b_lse[:, None]) * b_ds
            b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
        for i_near in range(0, NEAR):
            i_j = tl.load(near + i_row * NEAR + i_near)
            if i_j >= 0:
                i_first, i_last = cluster_span(k_offsets + i_kv * (CK + 1), i_j)
                for i_k in range(i_first, i_last, BN):
                    b_j, m_n = member_rows(k_order + i_kv * NK, i_k, i_last, BN)
                    b_k = load_rows(p_k, b_j, m_n, k_strides[2], D, BD)
                    b_v = load_rows(p_v, b_j, m_n, v_strides[2], DV, BDV)
                    b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                    b_s = tl.where(m_n[None, :], b_s, float("-inf"))
                    b_ds = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None]
                    b_ds = tl.exp(b_s - b_lse[:, None]) * b_ds
                    b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
        i_first, i_last = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
        b_dp = load_row(d_centroids + i_row * D, D, BD) / (i_last - i_first).to(tl.float32)
        store_rows(dq, i_head * NQ + b_n, m_m, D, scale * b_dq + b_dp[None, :], D, BD)
