"""Backward of `summarise` and `dipole`: the gradient of the query centroids."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.members import cluster_span, member_rows
from ..common.rows import load_rows, of_head, row_places, store_rows
from .dipole import load_directions, load_far_mass
from .key_grad import moment_weights


@triton.jit
def muse_tilt_kernel(
    far, far_mass, mean_k, mean_v, d_mean_k, d_mean_v, basis, moment, d_moment, tilt, d_centroids, scale, CK,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr,
    BN: tl.constexpr, DIPOLE: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """tilt_ij = dk~.k~ + dv~.v~ + pi_ij <Z, dZ>, what the weights' gradient is measured from; and the part of
    dp_i that comes from d = q - p_i through the dipole: - s U Z sum_j dv~_ij."""
    i_row = tl.program_id(0).to(tl.int64)
    o_n, o_d, o_r = tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BR)
    b_dv_sum = tl.zeros([BDV], dtype=tl.float32)
    if DIPOLE:
        b_z = load_rows(moment, i_row * R + o_r, o_r < R, DV, DV, BDV)  # [BR, BDV]
        b_along = tl.sum(b_z * load_rows(d_moment, i_row * R + o_r, o_r < R, DV, DV, BDV))
        b_total = tl.load(far_mass + i_row)
        b_total = tl.where(b_total > float("-inf"), b_total, 0.0)
    for i in range(0, CK, BN):
        m_n, o_j = i + o_n < CK, i_row * CK + i + o_n
        o_k, m_k = row_places(o_j, m_n, D, D, BD)  # of the means and of their gradients
        o_v, m_v = row_places(o_j, m_n, DV, DV, BDV)
        b_k = tl.load(mean_k + o_k, mask=m_k, other=0.0).to(tl.float32)
        b_v = tl.load(mean_v + o_v, mask=m_v, other=0.0).to(tl.float32)
        b_dv = tl.load(d_mean_v + o_v, mask=m_v, other=0.0)
        b_dk = tl.load(d_mean_k + o_k, mask=m_k, other=0.0)
        b_tilt = tl.sum(b_k * b_dk, axis=1) + tl.sum(b_v * b_dv, axis=1)
        if DIPOLE:
            b_dv_sum += tl.sum(b_dv, axis=0)
            b_tilt += tl.exp(tl.load(far + o_j, mask=m_n, other=float("-inf")) - b_total) * b_along
        tl.store(tilt + o_j, b_tilt, mask=m_n)
    b_dp = tl.zeros([BD], dtype=tl.float32)
    if DIPOLE:
        b_dt = tl.sum(b_z * b_dv_sum[None, :], axis=1)  # [BR]
        if FULL:
            b_u = (o_d[:, None] == o_r[None, :]).to(tl.float32)
        else:
            b_u = load_rows(basis + i_row * D * R, o_d, o_d < D, R, R, BR).to(tl.float32)  # [BD, BR]
        b_dp = -scale * tl.sum(b_u * b_dt[None, :], axis=1)
    tl.store(d_centroids + i_row * D + o_d, b_dp, mask=o_d < D)


@triton.jit
def muse_centroid_grad_kernel(
    k, v, centroids, k_members, mass, tilt, d_mean_k, d_mean_v, partial, scale, k_strides, v_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dp_i = s sum_n w_n (dk~.k_n + dv~.v_n - tilt) k_n over SPAN key clusters; summed outside."""
    HK, NK, CK, ROWS, TILES, SPAN = sizes
    k_order, k_offsets = k_members
    i_tile, i_head = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_part = tl.program_id(1)
    p_k = of_head(k, k_strides, i_head // HK, i_head % HK)
    p_v = of_head(v, v_strides, i_head // HK, i_head % HK)
    o_c = i_tile * BC + tl.arange(0, BC)
    m_c = o_c < ROWS
    o_row = i_head * ROWS + o_c
    b_p = load_rows(centroids, o_row, m_c, D, D, BD)  # [BC, BD]
    b_dp = tl.zeros([BC, BD], dtype=tl.float32)
    for i_j in range(i_part * SPAN, tl.minimum((i_part + 1) * SPAN, CK)):
        i_start, i_end = cluster_span(k_offsets + i_head * (CK + 1), i_j)
        o_j = o_row * CK + i_j
        b_a = tl.load(mass + o_j, mask=m_c, other=float("inf"))
        b_tilt = tl.load(tilt + o_j, mask=m_c, other=0.0)
        b_dk = load_rows(d_mean_k, o_j, m_c, D, D, BD).to(b_p.dtype)
        b_dv = load_rows(d_mean_v, o_j, m_c, DV, DV, BDV).to(b_p.dtype)
        for i in range(i_start, i_end, BM):
            b_n, m_m = member_rows(k_order + i_head * NK, i, i_end, BM)
            b_k = load_rows(p_k, b_n, m_m, k_strides[2], D, BD)
            b_v = load_rows(p_v, b_n, m_m, v_strides[2], DV, BDV)
            b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale - b_a[:, None]  # [BC, BM]
            b_dw = tl.dot(b_dk, tl.trans(b_k), input_precision=PRECISION) - b_tilt[:, None]
            b_dw = tl.dot(b_dv, tl.trans(b_v), b_dw, input_precision=PRECISION)
            b_ds = tl.where(m_m[None, :], tl.exp(b_s) * b_dw, 0.0)
            b_dp = tl.dot(b_ds.to(b_k.dtype), b_k, b_dp, input_precision=PRECISION)
    p_partial = partial + (i_part.to(tl.int64) * (tl.num_programs(0) // TILES) + i_head) * ROWS * D
    store_rows(p_partial, o_c, m_c, D, b_dp * scale, D, BD)


@triton.jit
def muse_moment_centroid_grad_kernel(
    k, v, centroids, basis, k_members, far, far_mass, mean_k, mean_v, d_moment, d_columns, scale,
    k_strides, v_strides, sizes, R: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr,
    BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, FULL: tl.constexpr, DIRECTIONS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """s sum_n w y e k_n over SPAN key clusters for every column (query cluster i, direction r); summed over the parts
    and over r outside it is dp_i. With DIRECTIONS sum_n w e k_n, which summed over the parts is du_ir."""
    HK, NK, CK, COLS, TILES, SPAN = sizes
    k_order, k_offsets = k_members
    i_tile, i_head = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_part = tl.program_id(1)
    p_k = of_head(k, k_strides, i_head // HK, i_head % HK)
    p_v = of_head(v, v_strides, i_head // HK, i_head % HK)
    o_c = i_tile * BC + tl.arange(0, BC)
    m_c = o_c < COLS
    o_col = tl.where(m_c, i_head * COLS + o_c, 0)
    o_row = o_col // R
    b_p = load_rows(centroids, o_row, m_c, D, D, BD)
    b_u = load_directions(basis, o_col, m_c, D, R, BD, FULL).to(b_p.dtype)
    b_dz = load_rows(d_moment, o_col, m_c, DV, DV, BDV)  # [BC, BDV]
    b_total = load_far_mass(far_mass, o_row, m_c)
    b_dp = tl.zeros([BC, BD], dtype=tl.float32)
    for i_j in range(i_part * SPAN, tl.minimum((i_part + 1) * SPAN, CK)):
        i_start, i_end = cluster_span(k_offsets + i_head * (CK + 1), i_j)
        o_j = o_row * CK + i_j
        m_far = m_c & (tl.load(far + o_j, mask=m_c, other=float("-inf")) > float("-inf"))
        b_mk = load_rows(mean_k, o_j, m_c, D, D, BD).to(tl.float32)
        b_mv = load_rows(mean_v, o_j, m_c, DV, DV, BDV).to(tl.float32)
        b_ck, b_cv = tl.sum(b_mk * b_u.to(tl.float32), axis=1), tl.sum(b_mv * b_dz, axis=1)
        for i in range(i_start, i_end, BM):
            b_n, m_m = member_rows(k_order + i_head * NK, i, i_end, BM)
            b_k = load_rows(p_k, b_n, m_m, k_strides[2], D, BD)
            b_v = load_rows(p_v, b_n, m_m, v_strides[2], DV, BDV)
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
    store_rows(p_columns, o_col, m_c, D, b_dp, D, BD)
