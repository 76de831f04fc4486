"""Gradient of the queries of MuSe: from the far field, the near field, the dipole and their cluster's centroid."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.members import find_tile


@triton.jit
def query_grad_kernel(
    q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, near, far, mean_k, mean_v, basis, moment,
    lse, share, dout, delta, delta_far, d_centroids, dq,
    scale, stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_ob, stride_oh, stride_on,
    HQ, G, NQ, NK, CQ, CK, NEAR, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, TILES,
    BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, DIPOLE: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq = s sum_far ds k~ + s sum_near ds k_n + s share U Z do + dp_i / n_i, for one tile of queries."""
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_c, i_start, i_end = find_tile(q_offsets + i_head * (CQ + 1), tl.program_id(0) % TILES, CQ, BM, BINS)
    if i_start < i_end:
        i_b, i_h, i_kv, i_row = i_head // HQ, i_head % HQ, i_head // G, i_head * CQ + i_c
        p_k = k + i_b * stride_kb + (i_h // G) * stride_kh
        p_v = v + i_b * stride_vb + (i_h // G) * stride_vh
        o_m, o_n, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
        m_m, m_d, m_dv = i_start + o_m < i_end, o_d < D, o_dv < DV
        b_n = tl.load(q_order + i_head * NQ + i_start + o_m, mask=m_m, other=0)
        b_dq = tl.zeros([BM, BD], dtype=tl.float32)
        if DIPOLE:  # first, while no registers hold q, d and do
            b_share = tl.load(share + i_head * NQ + b_n, mask=m_m, other=0.0)
            o_r = tl.arange(0, BR)
            b_dt = tl.zeros([BM, BR], dtype=tl.float32)
            for i_v in range(0, DV, 16):  # in short steps, as in `evaluate`
                o_k = i_v + tl.arange(0, 16)
                p_x = dout + i_b * stride_ob + i_h * stride_oh + b_n[:, None] * stride_on + o_k[None, :]
                b_x = tl.load(p_x, mask=m_m[:, None] & (o_k[None, :] < DV), other=0.0)  # [BM, 16]
                p_z = moment + (i_row * R + o_r)[None, :] * DV + o_k[:, None]
                b_z = tl.load(p_z, mask=(o_r[None, :] < R) & (o_k[:, None] < DV), other=0.0)  # [16, BR]
                b_dt = tl.dot(b_x, b_z.to(b_x.dtype), b_dt, input_precision=PRECISION)
            b_dt = b_dt * b_share[:, None]
            if FULL:
                b_dq += b_dt
            else:
                p_u = basis + i_row * D * R + o_d[None, :] * R + o_r[:, None]
                b_u = tl.load(p_u, mask=m_d[None, :] & (o_r[:, None] < R), other=0.0)  # [BR, BD]
                b_dq = tl.dot(b_dt.to(b_u.dtype), b_u, b_dq, input_precision=PRECISION)
        p_q = q + i_b * stride_qb + i_h * stride_qh + b_n[:, None] * stride_qn + o_d[None, :]
        b_q = tl.load(p_q, mask=m_m[:, None] & m_d[None, :], other=0.0)  # [BM, BD]
        b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0)
        b_d = (b_q.to(tl.float32) - b_p.to(tl.float32)[None, :]).to(b_q.dtype)
        p_do = dout + i_b * stride_ob + i_h * stride_oh + b_n[:, None] * stride_on + o_dv[None, :]
        b_do = tl.load(p_do, mask=m_m[:, None] & m_dv[None, :], other=0.0)  # [BM, BDV]
        b_lse = tl.load(lse + i_head * NQ + b_n, mask=m_m, other=float("inf"))
        b_lse = tl.where(b_lse > float("-inf"), b_lse, float("inf"))
        b_far = tl.load(delta_far + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_delta = tl.load(delta + i_head * NQ + b_n, mask=m_m, other=0.0)
        for i in range(0, CK, BN):
            m_n = i + o_n < CK
            o_j = i_row * CK + i + o_n
            b_a = tl.load(far + o_j, mask=m_n, other=float("-inf"))
            b_k = tl.load(
                mean_k + o_j[:, None] * D + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
            )
            b_v = tl.load(
                mean_v + o_j[:, None] * DV + o_dv[None, :], mask=m_n[:, None] & m_dv[None, :], other=0.0
            )
            b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)  # [BM, BN]
            b_ds = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_far[:, None]
            b_ds = tl.exp(b_s - b_lse[:, None]) * b_ds
            b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
        for i_near in range(0, NEAR):
            i_j = tl.load(near + i_row * NEAR + i_near)
            if i_j >= 0:
                i_first = tl.load(k_offsets + i_kv * (CK + 1) + i_j)
                i_last = tl.load(k_offsets + i_kv * (CK + 1) + i_j + 1)
                for i_k in range(i_first, i_last, BN):
                    m_n = i_k + o_n < i_last
                    b_j = tl.load(k_order + i_kv * NK + i_k + o_n, mask=m_n, other=0)[:, None]
                    b_k = tl.load(
                        p_k + b_j * stride_kn + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
                    )
                    b_v = tl.load(
                        p_v + b_j * stride_vn + o_dv[None, :], mask=m_n[:, None] & m_dv[None, :], other=0.0
                    )
                    b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                    b_s = tl.where(m_n[None, :], b_s, float("-inf"))
                    b_ds = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None]
                    b_ds = tl.exp(b_s - b_lse[:, None]) * b_ds
                    b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
        b_dp = tl.load(d_centroids + i_row * D + o_d, mask=m_d, other=0.0)
        p_offset = q_offsets + i_head * (CQ + 1) + i_c
        b_size = (tl.load(p_offset + 1) - tl.load(p_offset)).to(tl.float32)
        b_dq = scale * b_dq + (b_dp / b_size)[None, :]
        p_dq = dq + (i_head * NQ + b_n)[:, None] * D + o_d[None, :]
        tl.store(p_dq, b_dq.to(dq.dtype.element_ty), mask=m_m[:, None] & m_d[None, :])
