"""Gradients of the keys and values of MuSe: through the summaries, the near field and the dipole."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.members import cluster_span, find_tile, member_rows
from ..common.rows import load_rows, of_head, store_rows
from .dipole import load_directions, load_far_mass


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
def muse_key_grad_kernel(
    q, k, v, centroids, q_members, k_members, summaries, d_summaries, basis, d_moment, lse, dout, delta, dk, dv,
    scale, q_strides, k_strides, v_strides, dout_strides, sizes, D: tl.constexpr, DV: tl.constexpr,
    R: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr,
    BC: tl.constexpr, NEAR: tl.constexpr, DIPOLE: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
    FAR: tl.constexpr,
):  # fmt: skip
    """dk and dv of one tile of the members of one key cluster j.

    Summaries: ds = w (dk~.k + dv~.v - tilt + da), dk += w dk~ + s ds p, dv += w dv~, over all query clusters.
    Near field: as in flash attention, over the queries of the clusters that have j near.
    Dipole: dk += w e u + s w y e p, dv += w y dZ, over all columns.
    """
    HK, G, NQ, NK, CQ, CK, ROWS, TILES = sizes
    q_order, q_offsets = q_members
    k_order, k_offsets = k_members
    mass, far, far_mass, mean_k, mean_v = summaries
    tilt, d_mass, d_mean_k, d_mean_v = d_summaries
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_j, i_start, i_end = find_tile(k_offsets + i_head * (CK + 1), tl.program_id(0) % TILES, CK, BM, BINS)
    if i_start < i_end:
        i_b, i_h = i_head // HK, i_head % HK
        o_c = tl.arange(0, BC)
        b_n, m_m = member_rows(k_order + i_head * NK, i_start, i_end, BM)
        b_k = load_rows(of_head(k, k_strides, i_b, i_h), b_n, m_m, k_strides[2], D, BD)  # [BM, BD]
        b_v = load_rows(of_head(v, v_strides, i_b, i_h), b_n, m_m, v_strides[2], DV, BDV)  # [BM, BDV]
        b_dk = tl.zeros([BM, BD], dtype=tl.float32)
        b_dv = tl.zeros([BM, BDV], dtype=tl.float32)
        if FAR:
            for i in range(0, ROWS, BC):
                m_c, o_row = i + o_c < ROWS, i_head * ROWS + i + o_c
                o_j = o_row * CK + i_j
                b_p = load_rows(centroids, o_row, m_c, D, D, BD)
                b_dmk = load_rows(d_mean_k, o_j, m_c, D, D, BD).to(b_k.dtype)
                b_dmv = load_rows(d_mean_v, o_j, m_c, DV, DV, BDV).to(b_k.dtype)
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
                m_near = tl.load(far + (i_head * ROWS + i_c) * CK + i_j) == float("-inf")
                if m_near:  # this cluster has members, so only being near makes it -inf
                    i_hq = i_head * G + i_c // CQ  # row of the query head over the whole batch
                    p_q = of_head(q, q_strides, i_b, i_h * G + i_c // CQ)
                    p_do = of_head(dout, dout_strides, i_b, i_h * G + i_c // CQ)
                    i_first, i_last = cluster_span(q_offsets + i_hq * (CQ + 1), i_c % CQ)
                    for i_q in range(i_first, i_last, BC):
                        b_i, m_c = member_rows(q_order + i_hq * NQ, i_q, i_last, BC)
                        b_q = load_rows(p_q, b_i, m_c, q_strides[2], D, BD)
                        b_do = load_rows(p_do, b_i, m_c, dout_strides[2], DV, BDV)
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
                m_c, o_col = i + o_c < ROWS * R, i_head * ROWS * R + i + o_c
                o_row = o_col // R
                o_j = o_row * CK + i_j
                # u.k~ and dZ.v~ first, so that the means are out of the way of the products
                b_mv = load_rows(mean_v, o_j, m_c, DV, DV, BDV).to(tl.float32)
                b_dz = load_rows(d_moment, o_col, m_c, DV, DV, BDV)
                b_cv = tl.sum(b_mv * b_dz, axis=1)
                b_dz = b_dz.to(b_v.dtype)
                b_mk = load_rows(mean_k, o_j, m_c, D, D, BD).to(tl.float32)
                b_u = load_directions(basis, o_col, m_c, D, R, BD, FULL).to(b_k.dtype)
                b_ck = tl.sum(b_mk * b_u.to(tl.float32), axis=1)
                b_p = load_rows(centroids, o_row, m_c, D, D, BD)
                m_far = m_c & (tl.load(far + o_j, mask=m_c, other=float("-inf")) > float("-inf"))
                b_total = load_far_mass(far_mass, o_row, m_c)
                b_w, b_y, b_e = moment_weights(
                    b_k, b_v, b_p, b_u, b_dz, b_total, b_ck, b_cv, m_far[None, :], scale, PRECISION
                )
                b_we, b_wy = b_w * b_e, b_w * b_y
                b_dk = tl.dot(b_we.to(b_k.dtype), b_u, b_dk, input_precision=PRECISION)
                b_dk = tl.dot((scale * b_we * b_y).to(b_k.dtype), b_p, b_dk, input_precision=PRECISION)
                b_dv = tl.dot(b_wy.to(b_k.dtype), b_dz, b_dv, input_precision=PRECISION)
        # loaded again rather than kept in registers all along
        b_n, m_m = member_rows(k_order + i_head * NK, i_start, i_end, BM)
        store_rows(dk, i_head * NK + b_n, m_m, D, b_dk, D, BD)
        store_rows(dv, i_head * NK + b_n, m_m, DV, b_dv, DV, BDV)
