"""Backward of `evaluate`: gradients of the summaries and of the dipole; the logits are recomputed."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.members import find_tile


@triton.jit
def far_turn(
    b_d, basis, moment, i_row, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """t = U^T d [BM, BR], the directions U [BD, BR] and the moment Z [BR, BDV] of query cluster i_row."""
    o_r, o_d, o_dv = tl.arange(0, BR), tl.arange(0, BD), tl.arange(0, BDV)
    if FULL:
        b_u = (o_d[:, None] == o_r[None, :]).to(b_d.dtype)
        b_t = b_d
    else:
        p_u = basis + i_row * D * R + o_d[:, None] * R + o_r[None, :]
        b_u = tl.load(p_u, mask=(o_d[:, None] < D) & (o_r[None, :] < R), other=0.0).to(b_d.dtype)
        b_t = tl.dot(b_d, b_u, input_precision=PRECISION).to(b_d.dtype)
    p_z = moment + (i_row * R + o_r)[:, None] * DV + o_dv[None, :]
    b_z = tl.load(p_z, mask=(o_r[:, None] < R) & (o_dv[None, :] < DV), other=0.0).to(b_d.dtype)
    return b_t, b_u, b_z


@triton.jit
def delta_kernel(
    q, centroids, basis, moment, q_order, q_offsets, out, lse, dout, dlse, delta, delta_far,
    scale, stride_qb, stride_qh, stride_qn, stride_ob, stride_oh, stride_on,
    HQ, NQ, CQ, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, TILES,
    BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr,
    DIPOLE: tl.constexpr, FULL: tl.constexpr, DLSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """delta = do.o - dlse, the mean of dP under the softmax; delta_far = delta - do.(s M d)."""
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_c, i_start, i_end = find_tile(q_offsets + i_head * (CQ + 1), tl.program_id(0) % TILES, CQ, BM, BINS)
    if i_start < i_end:
        i_b, i_h, i_row = i_head // HQ, i_head % HQ, i_head * CQ + i_c
        o_m, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BDV)
        m_m, m_d, m_dv = i_start + o_m < i_end, o_d < D, o_dv < DV
        b_n = tl.load(q_order + i_head * NQ + i_start + o_m, mask=m_m, other=0)
        m_o = m_m[:, None] & m_dv[None, :]
        p_do = dout + i_b * stride_ob + i_h * stride_oh + b_n[:, None] * stride_on + o_dv[None, :]
        b_do = tl.load(p_do, mask=m_o, other=0.0)  # [BM, BDV]
        b_o = tl.load(out + (i_head * NQ + b_n)[:, None] * DV + o_dv[None, :], mask=m_o, other=0.0)
        b_delta = tl.sum(b_do.to(tl.float32) * b_o.to(tl.float32), axis=1)  # [BM]
        if DLSE:
            b_delta -= tl.load(dlse + i_head * NQ + b_n, mask=m_m, other=0.0).to(tl.float32)
        tl.store(delta + i_head * NQ + b_n, b_delta, mask=m_m)
        if DIPOLE:
            p_q = q + i_b * stride_qb + i_h * stride_qh + b_n[:, None] * stride_qn + o_d[None, :]
            b_q = tl.load(p_q, mask=m_m[:, None] & m_d[None, :], other=0.0)
            b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0)
            b_d = (b_q.to(tl.float32) - b_p.to(tl.float32)[None, :]).to(b_q.dtype)  # [BM, BD]
            b_t, _, b_z = far_turn(b_d, basis, moment, i_row, D, DV, R, BD, BDV, BR, FULL, PRECISION)
            b_turn = tl.dot(b_t, b_z, input_precision=PRECISION) * scale  # [BM, BDV]
            b_delta -= tl.sum(b_do.to(tl.float32) * b_turn, axis=1)
            tl.store(delta_far + i_head * NQ + b_n, b_delta, mask=m_m)


@triton.jit
def summary_grad_kernel(
    q, centroids, q_order, q_offsets, far, mean_k, mean_v, lse, dout, delta_far, d_mass, d_mean_k, d_mean_v,
    scale, stride_qb, stride_qh, stride_qn, stride_ob, stride_oh, stride_on,
    HQ, NQ, CQ, CK, D: tl.constexpr, DV: tl.constexpr, TILES,
    BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """da_ij = sum_q ds, dk~_ij = s sum_q ds d, dv~_ij = sum_q P do, with ds = P (do.v~ - delta_far)."""
    # one program: one query cluster, BC key clusters
    i_tile, i_row = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    o_j, o_m, o_d, o_dv = (
        i_tile * BC + tl.arange(0, BC),
        tl.arange(0, BM),
        tl.arange(0, BD),
        tl.arange(0, BDV),
    )
    m_j, m_d, m_dv = o_j < CK, o_d < D, o_dv < DV
    p_q = q + (i_head // HQ) * stride_qb + (i_head % HQ) * stride_qh
    p_do = dout + (i_head // HQ) * stride_ob + (i_head % HQ) * stride_oh
    o_out = i_row * CK + o_j
    b_a = tl.load(far + o_out, mask=m_j, other=float("-inf"))
    # [BC, BD], [BC, BDV]
    b_k = tl.load(mean_k + o_out[:, None] * D + o_d[None, :], mask=m_j[:, None] & m_d[None, :], other=0.0)
    b_v = tl.load(mean_v + o_out[:, None] * DV + o_dv[None, :], mask=m_j[:, None] & m_dv[None, :], other=0.0)
    b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0).to(tl.float32)
    i_start = tl.load(q_offsets + i_head * (CQ + 1) + i_c)
    i_end = tl.load(q_offsets + i_head * (CQ + 1) + i_c + 1)
    b_da = tl.zeros([BC], dtype=tl.float32)
    b_dk = tl.zeros([BC, BD], dtype=tl.float32)
    b_dv = tl.zeros([BC, BDV], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        m_m = i + o_m < i_end
        b_n = tl.load(q_order + i_head * NQ + i + o_m, mask=m_m, other=0)
        b_q = tl.load(
            p_q + b_n[:, None] * stride_qn + o_d[None, :], mask=m_m[:, None] & m_d[None, :], other=0.0
        )
        b_d = tl.where(m_m[:, None], b_q.to(tl.float32) - b_p[None, :], 0.0).to(b_k.dtype)  # [BM, BD]
        b_do = tl.load(
            p_do + b_n[:, None] * stride_on + o_dv[None, :], mask=m_m[:, None] & m_dv[None, :], other=0.0
        )
        b_lse = tl.load(lse + i_head * NQ + b_n, mask=m_m, other=float("inf"))
        b_lse = tl.where(b_lse > float("-inf"), b_lse, float("inf"))
        b_delta = tl.load(delta_far + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_s = b_a[:, None] + scale * tl.dot(b_k, tl.trans(b_d), input_precision=PRECISION)  # [BC, BM]
        b_w = tl.exp(b_s - b_lse[None, :])
        b_ds = b_w * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
        b_da += tl.sum(b_ds, axis=1)
        b_dk = tl.dot(b_ds.to(b_d.dtype), b_d, b_dk, input_precision=PRECISION)
        b_dv = tl.dot(b_w.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
    tl.store(d_mass + o_out, b_da, mask=m_j)
    tl.store(d_mean_k + o_out[:, None] * D + o_d[None, :], b_dk * scale, mask=m_j[:, None] & m_d[None, :])
    tl.store(d_mean_v + o_out[:, None] * DV + o_dv[None, :], b_dv, mask=m_j[:, None] & m_dv[None, :])


@triton.jit
def moment_grad_kernel(
    q, centroids, basis, moment, q_order, q_offsets, share, dout, d_moment,
    scale, stride_qb, stride_qh, stride_qn, stride_ob, stride_oh, stride_on,
    HQ, NQ, CQ, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr, FULL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dZ_i = s sum_q share (U^T d) do^T."""
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    o_m, o_d, o_dv, o_r = tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BDV), tl.arange(0, BR)
    m_d, m_dv = o_d < D, o_dv < DV
    p_q = q + (i_head // HQ) * stride_qb + (i_head % HQ) * stride_qh
    p_do = dout + (i_head // HQ) * stride_ob + (i_head % HQ) * stride_oh
    b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0).to(tl.float32)
    i_start = tl.load(q_offsets + i_head * (CQ + 1) + i_c)
    i_end = tl.load(q_offsets + i_head * (CQ + 1) + i_c + 1)
    b_dz = tl.zeros([BR, BDV], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        m_m = i + o_m < i_end
        b_n = tl.load(q_order + i_head * NQ + i + o_m, mask=m_m, other=0)
        b_q = tl.load(
            p_q + b_n[:, None] * stride_qn + o_d[None, :], mask=m_m[:, None] & m_d[None, :], other=0.0
        )
        b_d = (b_q.to(tl.float32) - b_p[None, :]).to(b_q.dtype)  # [BM, BD]
        b_do = tl.load(
            p_do + b_n[:, None] * stride_on + o_dv[None, :], mask=m_m[:, None] & m_dv[None, :], other=0.0
        )
        b_share = tl.load(share + i_head * NQ + b_n, mask=m_m, other=0.0)
        if FULL:
            b_t = b_d
        else:
            p_u = basis + i_row * D * R + o_d[:, None] * R + o_r[None, :]
            b_u = tl.load(p_u, mask=m_d[:, None] & (o_r[None, :] < R), other=0.0).to(b_d.dtype)
            b_t = tl.dot(b_d, b_u, input_precision=PRECISION)
        b_t = (b_t.to(tl.float32) * (scale * b_share)[:, None]).to(b_do.dtype)  # [BM, BR]
        b_dz = tl.dot(tl.trans(b_t), b_do, b_dz, input_precision=PRECISION)
    m_z = (o_r[:, None] < R) & m_dv[None, :]
    tl.store(d_moment + (i_row * R + o_r)[:, None] * DV + o_dv[None, :], b_dz, mask=m_z)
