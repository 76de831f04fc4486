"""Gradient of the directions U that a dipole is kept along: by how queries turn along them, and by the moment."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def turn_grad_kernel(
    q, centroids, moment, q_order, q_offsets, share, dout, d_basis,
    scale, stride_qb, stride_qh, stride_qn, stride_ob, stride_oh, stride_on,
    HQ, NQ, CQ, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr,
    BD: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dU_i = s sum_q share (Z do) d^T, [R, D], added to what the moment's part of the gradient left there."""
    # one program: one query cluster
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    o_m, o_d, o_r = tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BR)
    m_d, m_r = o_d < D, o_r < R
    p_q = q + (i_head // HQ) * stride_qb + (i_head % HQ) * stride_qh
    p_do = dout + (i_head // HQ) * stride_ob + (i_head % HQ) * stride_oh
    b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0).to(tl.float32)
    i_start = tl.load(q_offsets + i_head * (CQ + 1) + i_c)
    i_end = tl.load(q_offsets + i_head * (CQ + 1) + i_c + 1)
    b_du = tl.zeros([BR, BD], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        m_m = i + o_m < i_end
        b_n = tl.load(q_order + i_head * NQ + i + o_m, mask=m_m, other=0)
        b_dt = tl.zeros([BR, BM], dtype=tl.float32)
        for i_v in range(0, DV, 16):  # in short steps, as in `evaluate`
            o_k = i_v + tl.arange(0, 16)
            p_x = p_do + b_n[None, :] * stride_on + o_k[:, None]
            b_x = tl.load(p_x, mask=(o_k[:, None] < DV) & m_m[None, :], other=0.0)  # [16, BM]
            p_z = moment + (i_row * R + o_r)[:, None] * DV + o_k[None, :]
            b_z = tl.load(p_z, mask=m_r[:, None] & (o_k[None, :] < DV), other=0.0)  # [BR, 16]
            b_dt = tl.dot(b_z.to(b_x.dtype), b_x, b_dt, input_precision=PRECISION)
        b_share = tl.load(share + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_dt = b_dt * (scale * b_share)[None, :]
        b_q = tl.load(
            p_q + b_n[:, None] * stride_qn + o_d[None, :], mask=m_m[:, None] & m_d[None, :], other=0.0
        )
        b_d = (b_q.to(tl.float32) - b_p[None, :]).to(b_q.dtype)  # [BM, BD]
        b_du = tl.dot(b_dt.to(b_d.dtype), b_d, b_du, input_precision=PRECISION)
    p_du = d_basis + (i_row * R + o_r)[:, None] * D + o_d[None, :]
    m_du = m_r[:, None] & m_d[None, :]
    b_du += tl.load(p_du, mask=m_du, other=0.0)
    tl.store(p_du, b_du, mask=m_du)
