"""Backward of `evaluate`: gradients of the summaries and of the dipole; the logits are recomputed."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.expansion import displacement
from ..common.members import cluster_span, find_tile, member_rows
from ..common.online import load_lse
from ..common.rows import load_row, load_rows, of_head, store_rows


@triton.jit
def muse_far_delta_kernel(
    q, centroids, basis, moment, q_members, dout, delta, delta_far, scale, q_strides, dout_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr,
    BINS: tl.constexpr, BM: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """delta_far = delta - do.(s M d): what the gradients of the far logits are measured from under a dipole."""
    HQ, NQ, CQ, TILES = sizes
    q_order, q_offsets = q_members
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_c, i_start, i_end = find_tile(q_offsets + i_head * (CQ + 1), tl.program_id(0) % TILES, CQ, BM, BINS)
    if i_start < i_end:
        i_b, i_h, i_row = i_head // HQ, i_head % HQ, i_head * CQ + i_c
        p_q, p_do = of_head(q, q_strides, i_b, i_h), of_head(dout, dout_strides, i_b, i_h)
        b_n, m_m = member_rows(q_order + i_head * NQ, i_start, i_end, BM)
        b_delta = tl.load(delta + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_do = load_rows(p_do, b_n, m_m, dout_strides[2], DV, BDV)  # [BM, BDV]
        b_q = load_rows(p_q, b_n, m_m, q_strides[2], D, BD)
        b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))  # [BM, BD]
        b_t = along_directions(b_d, basis, i_row, D, R, BD, BR, FULL, PRECISION).to(b_d.dtype)  # [BM, BR]
        o_r = tl.arange(0, BR)
        b_z = load_rows(moment, i_row * R + o_r, o_r < R, DV, DV, BDV).to(b_d.dtype)  # [BR, BDV]
        b_mean = tl.dot(b_t, b_z, input_precision=PRECISION) * scale  # [BM, BDV]
        b_delta -= tl.sum(b_do.to(tl.float32) * b_mean, axis=1)
        tl.store(delta_far + i_head * NQ + b_n, b_delta, mask=m_m)


@triton.jit
def along_directions(
    b_d, basis, i_row, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
    FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """U^T d [BM, BR] of displacements b_d [BM, BD] along the directions of query cluster i_row."""
    if FULL:
        b_t = b_d
    else:
        o_d = tl.arange(0, BD)
        b_u = load_rows(basis + i_row * D * R, o_d, o_d < D, R, R, BR).to(b_d.dtype)  # [BD, BR]
        b_t = tl.dot(b_d, b_u, input_precision=PRECISION)
    return b_t


@triton.jit
def muse_summary_grad_kernel(
    q, centroids, q_members, far, mean_k, mean_v, lse, dout, delta_far, d_mass, d_mean_k, d_mean_v, scale,
    q_strides, dout_strides, sizes, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BC: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """da_ij = sum_q ds, dk~_ij = s sum_q ds d, dv~_ij = sum_q P do, with ds = P (do.v~ - delta_far)."""
    # one program: one query cluster, BC key clusters
    HQ, NQ, CQ, CK, TILES = sizes
    q_order, q_offsets = q_members
    i_tile, i_row = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    p_q = of_head(q, q_strides, i_head // HQ, i_head % HQ)
    p_do = of_head(dout, dout_strides, i_head // HQ, i_head % HQ)
    o_j = i_tile * BC + tl.arange(0, BC)
    m_j, o_out = o_j < CK, i_row * CK + o_j
    b_a = tl.load(far + o_out, mask=m_j, other=float("-inf"))
    b_k = load_rows(mean_k, o_out, m_j, D, D, BD)  # [BC, BD]
    b_v = load_rows(mean_v, o_out, m_j, DV, DV, BDV)  # [BC, BDV]
    b_p = load_row(centroids + i_row * D, D, BD)
    i_start, i_end = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
    b_da = tl.zeros([BC], dtype=tl.float32)
    b_dk = tl.zeros([BC, BD], dtype=tl.float32)
    b_dv = tl.zeros([BC, BDV], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        b_n, m_m = member_rows(q_order + i_head * NQ, i, i_end, BM)
        b_d = displacement(load_rows(p_q, b_n, m_m, q_strides[2], D, BD), b_p)
        b_d = tl.where(m_m[:, None], b_d, 0.0)  # [BM, BD]
        b_do = load_rows(p_do, b_n, m_m, dout_strides[2], DV, BDV)  # [BM, BDV]
        b_lse = load_lse(lse + i_head * NQ, b_n, m_m)
        b_delta = tl.load(delta_far + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_s = b_a[:, None] + scale * tl.dot(b_k, tl.trans(b_d), input_precision=PRECISION)  # [BC, BM]
        b_w = tl.exp(b_s - b_lse[None, :])
        b_ds = b_w * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
        b_da += tl.sum(b_ds, axis=1)
        b_dk = tl.dot(b_ds.to(b_d.dtype), b_d, b_dk, input_precision=PRECISION)
        b_dv = tl.dot(b_w.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
    tl.store(d_mass + o_out, b_da, mask=m_j)
    store_rows(d_mean_k, o_out, m_j, D, b_dk * scale, D, BD)
    store_rows(d_mean_v, o_out, m_j, DV, b_dv, DV, BDV)


@triton.jit
def muse_moment_grad_kernel(
    q, centroids, basis, q_members, share, dout, d_moment, scale, q_strides, dout_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr,
    BM: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dZ_i = s sum_q share (U^T d) do^T."""
    HQ, NQ, CQ = sizes
    q_order, q_offsets = q_members
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    p_q = of_head(q, q_strides, i_head // HQ, i_head % HQ)
    p_do = of_head(dout, dout_strides, i_head // HQ, i_head % HQ)
    b_p = load_row(centroids + i_row * D, D, BD)
    i_start, i_end = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
    b_dz = tl.zeros([BR, BDV], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        b_n, m_m = member_rows(q_order + i_head * NQ, i, i_end, BM)
        b_d = displacement(load_rows(p_q, b_n, m_m, q_strides[2], D, BD), b_p)  # [BM, BD]
        b_do = load_rows(p_do, b_n, m_m, dout_strides[2], DV, BDV)  # [BM, BDV]
        b_share = tl.load(share + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_t = along_directions(b_d, basis, i_row, D, R, BD, BR, FULL, PRECISION)
        b_t = (b_t.to(tl.float32) * (scale * b_share)[:, None]).to(b_do.dtype)  # [BM, BR]
        b_dz = tl.dot(tl.trans(b_t), b_do, b_dz, input_precision=PRECISION)
    o_r = tl.arange(0, BR)
    store_rows(d_moment, i_row * R + o_r, o_r < R, DV, b_dz, DV, BDV)
