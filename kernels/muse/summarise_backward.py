"""Backward of `summarise` and `dipole`: the gradient of the query centroids."""

from __future__ import annotations

import triton
import triton.language as tl

from .dipole import load_direction
from .key_grad import moment_weights


@triton.jit
def tilt_kernel(
    far, far_mass, mean_k, mean_v, d_mean_k, d_mean_v, basis, moment, d_moment, tilt, d_centroids, scale,
    CK, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr,
    DIPOLE: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """tilt_ij = dk~.k~ + dv~.v~ + pi_ij <Z, dZ>, what the weights' gradient is measured from; and the part of
    dp_i that comes from d = q - p_i through the dipole: - s U Z sum_j dv~_ij."""
    i_row = tl.program_id(0).to(tl.int64)
    o_n, o_d, o_dv, o_r = tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV), tl.arange(0, BR)
    m_d, m_dv, m_r = o_d < D, o_dv < DV, o_r < R
    b_dv_sum = tl.zeros([BDV], dtype=tl.float32)
    if DIPOLE:
        o_z = (i_row * R + o_r)[:, None] * DV + o_dv[None, :]
        m_z = m_r[:, None] & m_dv[None, :]
        b_z = tl.load(moment + o_z, mask=m_z, other=0.0)  # [BR, BDV]
        b_turned = tl.sum(b_z * tl.load(d_moment + o_z, mask=m_z, other=0.0))
        b_total = tl.load(far_mass + i_row)
        b_total = tl.where(b_total > float("-inf"), b_total, 0.0)
    for i in range(0, CK, BN):
        m_n = i + o_n < CK
        o_j = i_row * CK + i + o_n
        o_jd, m_jd = o_j[:, None] * D + o_d[None, :], m_n[:, None] & m_d[None, :]
        o_jv, m_jv = o_j[:, None] * DV + o_dv[None, :], m_n[:, None] & m_dv[None, :]
        b_k = tl.load(mean_k + o_jd, mask=m_jd, other=0.0).to(tl.float32)
        b_v = tl.load(mean_v + o_jv, mask=m_jv, other=0.0).to(tl.float32)
        b_dv = tl.load(d_mean_v + o_jv, mask=m_jv, other=0.0)
        b_tilt = tl.sum(b_k * tl.load(d_mean_k + o_jd, mask=m_jd, other=0.0), axis=1) + tl.sum(
            b_v * b_dv, axis=1
        )
        if DIPOLE:
            b_dv_sum += tl.sum(b_dv, axis=0)
            b_tilt += tl.exp(tl.load(far + o_j, mask=m_n, other=float("-inf")) - b_total) * b_turned
        tl.store(tilt + o_j, b_tilt, mask=m_n)
    b_dp = tl.zeros([BD], dtype=tl.float32)
    if DIPOLE:
        b_dt = tl.sum(b_z * b_dv_sum[None, :], axis=1)  # [BR]
        if FULL:
            b_u = (o_d[:, None] == o_r[None, :]).to(tl.float32)
        else:
            p_u = basis + i_row * D * R + o_d[:, None] * R + o_r[None, :]
            b_u = tl.load(p_u, mask=m_d[:, None] & m_r[None, :], other=0.0).to(tl.float32)
        b_dp = -scale * tl.sum(b_u * b_dt[None, :], axis=1)
    tl.store(d_centroids + i_row * D + o_d, b_dp, mask=m_d)


@triton.jit
def centroid_grad_kernel(
    k, v, centroids, k_order, k_offsets, mass, tilt, d_mean_k, d_mean_v, partial,
    scale, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    HK, NK, CK, ROWS, D: tl.constexpr, DV: tl.constexpr, TILES, SPLITS, SPAN,
    BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dp_i = s sum_n w_n (dk~.k_n + dv~.v_n - tilt) k_n over SPAN key clusters; summed outside."""
    i_tile, i_split = tl.program_id(0) % TILES, (tl.program_id(0) // TILES) % SPLITS
    i_head = (tl.program_id(0) // TILES // SPLITS).to(tl.int64)
    o_c, o_d, o_dv, o_m = (
        i_tile * BC + tl.arange(0, BC),
        tl.arange(0, BD),
        tl.arange(0, BDV),
        tl.arange(0, BM),
    )
    m_c, m_d, m_dv = o_c < ROWS, o_d < D, o_dv < DV
    m_cd, m_cv = m_c[:, None] & m_d[None, :], m_c[:, None] & m_dv[None, :]
    p_k = k + (i_head // HK) * stride_kb + (i_head % HK) * stride_kh
    p_v = v + (i_head // HK) * stride_vb + (i_head % HK) * stride_vh
    o_row = tl.where(m_c, i_head * ROWS + o_c, 0)
    b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_cd, other=0.0)  # [BC, BD]
    b_dp = tl.zeros([BC, BD], dtype=tl.float32)
    for i_j in range(i_split * SPAN, tl.minimum(CK, i_split * SPAN + SPAN)):
        i_start = tl.load(k_offsets + i_head * (CK + 1) + i_j)
        i_end = tl.load(k_offsets + i_head * (CK + 1) + i_j + 1)
        o_j = o_row * CK + i_j
        b_a = tl.load(mass + o_j, mask=m_c, other=float("inf"))
        b_tilt = tl.load(tilt + o_j, mask=m_c, other=0.0)
        b_dk = tl.load(d_mean_k + o_j[:, None] * D + o_d[None, :], mask=m_cd, other=0.0).to(b_p.dtype)
        b_dv = tl.load(d_mean_v + o_j[:, None] * DV + o_dv[None, :], mask=m_cv, other=0.0).to(b_p.dtype)
        for i in range(i_start, i_end, BM):
            m_m = i + o_m < i_end
            b_n = tl.load(k_order + i_head * NK + i + o_m, mask=m_m, other=0)[:, None]
            b_k = tl.load(p_k + b_n * stride_kn + o_d[None, :], mask=m_m[:, None] & m_d[None, :], other=0.0)
            b_v = tl.load(p_v + b_n * stride_vn + o_dv[None, :], mask=m_m[:, None] & m_dv[None, :], other=0.0)
            b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale - b_a[:, None]  # [BC, BM]
            b_dw = tl.dot(b_dk, tl.trans(b_k), input_precision=PRECISION) - b_tilt[:, None]
            b_dw = tl.dot(b_dv, tl.trans(b_v), b_dw, input_precision=PRECISION)
            b_ds = tl.where(m_m[None, :], tl.exp(b_s) * b_dw, 0.0)
            b_dp = tl.dot(b_ds.to(b_k.dtype), b_k, b_dp, input_precision=PRECISION)
    p_out = partial + ((i_head * SPLITS + i_split) * ROWS + o_c)[:, None] * D + o_d[None, :]
    tl.store(p_out, b_dp * scale, mask=m_cd)


@triton.jit
def moment_centroid_grad_kernel(
    k, v, centroids, basis, k_order, k_offsets, far, far_mass, mean_k, mean_v, d_moment, d_columns,
    scale, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    HK, NK, CK, COLS, R: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, TILES, SPAN,
    BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
    FULL: tl.constexpr, DIRECTIONS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """s sum_n w y e k_n over SPAN key clusters for every column (query cluster i, direction r); summed over the parts
    and over r outside it is dp_i. With DIRECTIONS sum_n w e k_n, which summed over the parts is du_ir."""
    i_tile, i_head = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_part = tl.program_id(1)
    o_c, o_d, o_dv, o_m = (
        i_tile * BC + tl.arange(0, BC),
        tl.arange(0, BD),
        tl.arange(0, BDV),
        tl.arange(0, BM),
    )
    m_c, m_d, m_dv = o_c < COLS, o_d < D, o_dv < DV
    m_cd, m_cv = m_c[:, None] & m_d[None, :], m_c[:, None] & m_dv[None, :]
    p_k = k + (i_head // HK) * stride_kb + (i_head % HK) * stride_kh
    p_v = v + (i_head // HK) * stride_vb + (i_head % HK) * stride_vh
    o_col = tl.where(m_c, i_head * COLS + o_c, 0)
    o_row = o_col // R
    b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_cd, other=0.0)
    b_u = load_direction(basis, o_col, m_c, D, R, BD, FULL).to(b_p.dtype)
    b_dz = tl.load(d_moment + o_col[:, None] * DV + o_dv[None, :], mask=m_cv, other=0.0)  # [BC, BDV]
    b_total = tl.load(far_mass + o_row, mask=m_c, other=0.0)
    b_total = tl.where(b_total > float("-inf"), b_total, 0.0)
    b_dp = tl.zeros([BC, BD], dtype=tl.float32)
    for i_j in range(i_part * SPAN, tl.minimum((i_part + 1) * SPAN, CK)):
        i_start = tl.load(k_offsets + i_head * (CK + 1) + i_j)
        i_end = tl.load(k_offsets + i_head * (CK + 1) + i_j + 1)
        o_j = o_row * CK + i_j
        m_far = m_c & (tl.load(far + o_j, mask=m_c, other=float("-inf")) > float("-inf"))
        b_mk = tl.load(mean_k + o_j[:, None] * D + o_d[None, :], mask=m_cd, other=0.0).to(tl.float32)
        b_mv = tl.load(mean_v + o_j[:, None] * DV + o_dv[None, :], mask=m_cv, other=0.0).to(tl.float32)
        b_ck, b_cv = tl.sum(b_mk * b_u.to(tl.float32), axis=1), tl.sum(b_mv * b_dz, axis=1)
        for i in range(i_start, i_end, BM):
            m_m = i + o_m < i_end
            b_n = tl.load(k_order + i_head * NK + i + o_m, mask=m_m, other=0)[:, None]
            b_k = tl.load(p_k + b_n * stride_kn + o_d[None, :], mask=m_m[:, None] & m_d[None, :], other=0.0)
            b_v = tl.load(p_v + b_n * stride_vn + o_dv[None, :], mask=m_m[:, None] & m_dv[None, :], other=0.0)
            m_ok = m_m[:, None] & m_far[None, :]
            b_w, b_y, b_e = moment_weights(
                b_k, b_v, b_p, b_u, b_dz.to(b_v.dtype), b_total, b_ck, b_cv, m_ok, scale, PRECISION
            )
            b_ds = b_w * b_e  # [BM, BC]
            if not DIRECTIONS:
                b_ds *= b_y
            b_ds = b_ds.to(b_k.dtype)
            b_dp = tl.dot(tl.trans(b_ds), b_k, b_dp, input_precision=PRECISION)
    p_columns = d_columns + i_part.to(tl.int64) * (tl.num_programs(0) // TILES) * COLS * D
    if not DIRECTIONS:
        b_dp *= scale
    tl.store(p_columns + o_col[:, None] * D + o_d[None, :], b_dp, mask=m_cd)
