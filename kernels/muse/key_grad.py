"""Gradients of the keys and values of MuSe: through the summaries, the near field and the dipole."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.members import find_tile
from .dipole import load_direction


@triton.jit
def moment_weights(
    b_k, b_v, b_p, b_u, b_dz, b_total, b_centre_k, b_centre_v, m_ok, scale, PRECISION: tl.constexpr
):
    """For keys [BM] and columns [BC]: w = exp(s p.k - L), y = u.(k - k~), e = dZ.(v - v~), each [BM, BC]."""
    b_s = tl.dot(b_k, tl.trans(b_p), input_precision=PRECISION) * scale - b_total[None, :]
    b_w = tl.where(m_ok, tl.exp(b_s), 0.0)
    b_y = tl.dot(b_k, tl.trans(b_u), input_precision=PRECISION) - b_centre_k[None, :]
    b_e = tl.dot(b_v, tl.trans(b_dz), input_precision=PRECISION) - b_centre_v[None, :]
    return b_w, b_y, b_e


@triton.jit
def key_grad_kernel(
    q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, mass, far, far_mass, mean_k, mean_v,
    tilt, d_mass, d_mean_k, d_mean_v, basis, d_moment, lse, dout, delta, dk, dv,
    scale, stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_ob, stride_oh, stride_on,
    HK, G, NQ, NK, CQ, CK, ROWS, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, TILES,
    BD: tl.constexpr, BDV: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
    NEAR: tl.constexpr, DIPOLE: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of the members of one key cluster j.

    Summaries: ds = w (dk~.k + dv~.v - tilt + da), dk += w dk~ + s ds p, dv += w dv~, over all query clusters.
    Near field: as in flash attention, over the queries of the clusters that have j near.
    Dipole: dk += w e u + s w y e p, dv += w y dZ, over all columns.
    """
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_j, i_start, i_end = find_tile(k_offsets + i_head * (CK + 1), tl.program_id(0) % TILES, CK, BM, BINS)
    if i_start < i_end:
        i_b, i_h = i_head // HK, i_head % HK
        o_m, o_c, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BC), tl.arange(0, BD), tl.arange(0, BDV)
        m_m, m_d, m_dv = i_start + o_m < i_end, o_d < D, o_dv < DV
        m_md, m_mv = m_m[:, None] & m_d[None, :], m_m[:, None] & m_dv[None, :]
        b_n = tl.load(k_order + i_head * NK + i_start + o_m, mask=m_m, other=0)[:, None]
        p_k = k + i_b * stride_kb + i_h * stride_kh + b_n * stride_kn + o_d[None, :]
        p_v = v + i_b * stride_vb + i_h * stride_vh + b_n * stride_vn + o_dv[None, :]
        b_k = tl.load(p_k, mask=m_md, other=0.0)  # [BM, BD]
        b_v = tl.load(p_v, mask=m_mv, other=0.0)  # [BM, BDV]
        b_dk = tl.zeros([BM, BD], dtype=tl.float32)
        b_dv = tl.zeros([BM, BDV], dtype=tl.float32)
        for i in range(0, ROWS, BC):
            m_c = i + o_c < ROWS
            o_row = i_head * ROWS + i + o_c
            o_j = o_row * CK + i_j
            m_cd, m_cv = m_c[:, None] & m_d[None, :], m_c[:, None] & m_dv[None, :]
            b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_cd, other=0.0)
            b_dmk = tl.load(d_mean_k + o_j[:, None] * D + o_d[None, :], mask=m_cd, other=0.0).to(b_k.dtype)
            b_dmv = tl.load(d_mean_v + o_j[:, None] * DV + o_dv[None, :], mask=m_cv, other=0.0).to(b_k.dtype)
            b_a = tl.load(mass + o_j, mask=m_c, other=float("inf"))
            b_tilt = tl.load(tilt + o_j, mask=m_c, other=0.0) - tl.load(d_mass + o_j, mask=m_c, other=0.0)
            b_s = tl.dot(b_k, tl.trans(b_p), input_precision=PRECISION) * scale - b_a[None, :]  # [BM, BC]
            b_w = tl.exp(b_s)
            b_ds = tl.dot(b_k, tl.trans(b_dmk), input_precision=PRECISION) - b_tilt[None, :]
            b_ds = b_w * tl.dot(b_v, tl.trans(b_dmv), b_ds, input_precision=PRECISION) * scale
            b_dk = tl.dot(b_ds.to(b_k.dtype), b_p, b_dk, input_precision=PRECISION)
            b_dk = tl.dot(b_w.to(b_k.dtype), b_dmk, b_dk, input_precision=PRECISION)
            b_dv = tl.dot(b_w.to(b_k.dtype), b_dmv, b_dv, input_precision=PRECISION)
        if NEAR:
            for i_c in range(0, ROWS):
                i_row = i_head * ROWS + i_c
                m_near = tl.load(far + i_row * CK + i_j) == float("-inf")
                if m_near:  # this cluster has members, so only being near makes it -inf
                    i_hq = i_head * G + i_c // CQ  # row of the query head over the whole batch
                    p_q = q + i_b * stride_qb + (i_h * G + i_c // CQ) * stride_qh
                    p_do = dout + i_b * stride_ob + (i_h * G + i_c // CQ) * stride_oh
                    p_offset = q_offsets + i_hq * (CQ + 1) + i_c % CQ
                    i_last = tl.load(p_offset + 1)
                    for i_q in range(tl.load(p_offset), i_last, BC):
                        m_c = i_q + o_c < i_last
                        b_i = tl.load(q_order + i_hq * NQ + i_q + o_c, mask=m_c, other=0)
                        b_q = tl.load(
                            p_q + b_i[:, None] * stride_qn + o_d[None, :],
                            mask=m_c[:, None] & m_d[None, :],
                            other=0.0,
                        )
                        b_do = tl.load(
                            p_do + b_i[:, None] * stride_on + o_dv[None, :],
                            mask=m_c[:, None] & m_dv[None, :],
                            other=0.0,
                        )
                        b_lse = tl.load(lse + i_hq * NQ + b_i, mask=m_c, other=float("inf"))
                        b_delta = tl.load(delta + i_hq * NQ + b_i, mask=m_c, other=0.0)
                        b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * scale
                        b_w = tl.exp(b_s - b_lse[None, :])  # [BM, BC]
                        b_ds = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :]
                        b_ds = b_w * b_ds * scale
                        b_dk = tl.dot(b_ds.to(b_k.dtype), b_q, b_dk, input_precision=PRECISION)
                        b_dv = tl.dot(b_w.to(b_k.dtype), b_do, b_dv, input_precision=PRECISION)
        if DIPOLE:
            for i in range(0, ROWS * R, BC):
                m_c = i + o_c < ROWS * R
                m_cd, m_cv = m_c[:, None] & m_d[None, :], m_c[:, None] & m_dv[None, :]
                o_col = i_head * ROWS * R + i + o_c
                o_row = o_col // R
                o_j = o_row * CK + i_j
                # u.k~ and dZ.v~ first, so that the means are out of the way of the products
                b_mv = tl.load(mean_v + o_j[:, None] * DV + o_dv[None, :], mask=m_cv, other=0.0).to(
                    tl.float32
                )
                b_dz = tl.load(d_moment + o_col[:, None] * DV + o_dv[None, :], mask=m_cv, other=0.0)
                b_cv = tl.sum(b_mv * b_dz, axis=1)
                b_dz = b_dz.to(b_v.dtype)
                b_mk = tl.load(mean_k + o_j[:, None] * D + o_d[None, :], mask=m_cd, other=0.0).to(tl.float32)
                b_u = load_direction(basis, o_col, m_c, D, R, BD, FULL).to(b_k.dtype)
                b_ck = tl.sum(b_mk * b_u.to(tl.float32), axis=1)
                b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_cd, other=0.0)
                m_far = m_c & (tl.load(far + o_j, mask=m_c, other=float("-inf")) > float("-inf"))
                b_total = tl.load(far_mass + o_row, mask=m_c, other=0.0)
                b_total = tl.where(b_total > float("-inf"), b_total, 0.0)
                b_w, b_y, b_e = moment_weights(
                    b_k, b_v, b_p, b_u, b_dz, b_total, b_ck, b_cv, m_far[None, :], scale, PRECISION
                )
                b_we, b_wy = b_w * b_e, b_w * b_y
                b_dk = tl.dot(b_we.to(b_k.dtype), b_u, b_dk, input_precision=PRECISION)
                b_dk = tl.dot((scale * b_we * b_y).to(b_k.dtype), b_p, b_dk, input_precision=PRECISION)
                b_dv = tl.dot(b_wy.to(b_k.dtype), b_dz, b_dv, input_precision=PRECISION)
        # loaded again rather than kept in registers all along
        b_n = tl.load(k_order + i_head * NK + i_start + o_m, mask=m_m, other=0)[:, None]
        o_out = i_head * NK + b_n
        tl.store(dk + o_out * D + o_d[None, :], b_dk.to(dk.dtype.element_ty), mask=m_md)
        tl.store(dv + o_out * DV + o_dv[None, :], b_dv.to(dv.dtype.element_ty), mask=m_mv)
