"""Gradient of the directions U that a dipole is kept along: by how queries turn along them, and by the moment."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.expansion import displacement
from ..common.members import cluster_span, member_rows
from ..common.rows import load_columns, load_row, load_rows, of_head, store_rows


@triton.jit
def muse_basis_grad_kernel(
    q, centroids, moment, q_members, share, dout, d_basis, scale, q_strides, dout_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dU_i = s sum_q share (Z do) d^T, [R, D], added to what the moment's part of the gradient left there."""
    # one program: one query cluster
    HQ, NQ, CQ = sizes
    q_order, q_offsets = q_members
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    p_q = of_head(q, q_strides, i_head // HQ, i_head % HQ)
    p_do = of_head(dout, dout_strides, i_head // HQ, i_head % HQ)
    o_r = tl.arange(0, BR)
    m_r, o_z = o_r < R, i_row * R + o_r
    b_p = load_row(centroids + i_row * D, D, BD)
    i_start, i_end = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
    b_du = tl.zeros([BR, BD], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        b_n, m_m = member_rows(q_order + i_head * NQ, i, i_end, BM)
        b_dt = tl.zeros([BR, BM], dtype=tl.float32)
        for i_v in range(0, DV, 16):  # in short steps, as in `evaluate`
            b_x = load_columns(p_do, b_n, m_m, dout_strides[2], DV, 16, i_v)  # [16, BM]
            b_z = load_rows(moment, o_z, m_r, DV, DV, 16, i_v)  # [BR, 16]
            b_dt = tl.dot(b_z.to(b_x.dtype), b_x, b_dt, input_precision=PRECISION)
        b_share = tl.load(share + i_head * NQ + b_n, mask=m_m, other=0.0)
        b_dt = b_dt * (scale * b_share)[None, :]
        b_d = displacement(load_rows(p_q, b_n, m_m, q_strides[2], D, BD), b_p)  # [BM, BD]
        b_du = tl.dot(b_dt.to(b_d.dtype), b_d, b_du, input_precision=PRECISION)
    b_du += load_rows(d_basis, o_z, m_r, D, D, BD)
    store_rows(d_basis, o_z, m_r, D, b_du, D, BD)
