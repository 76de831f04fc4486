"""Rows of a matrix in device memory: one helper loads them, one stores them, whatever the strides."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(p, o_rows, m_rows, stride, WIDTH, BW: tl.constexpr):
    """Rows o_rows [BM] of a matrix at p whose rows are `stride` apart, as [BM, BW]: 0 beyond WIDTH or m_rows."""
    o_w = tl.arange(0, BW)
    mask = m_rows[:, None] & (o_w < WIDTH)[None, :]
    return tl.load(p + o_rows[:, None] * stride + o_w[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(p, o_rows, m_rows, stride, b, WIDTH, BW: tl.constexpr):
    """Write b [BM, BW] to rows o_rows [BM] of a matrix at p, in the matrix's own dtype."""
    o_w = tl.arange(0, BW)
    mask = m_rows[:, None] & (o_w < WIDTH)[None, :]
    tl.store(p + o_rows[:, None] * stride + o_w[None, :], b.to(p.dtype.element_ty), mask=mask)


@triton.jit
def load_row(p, WIDTH, BW: tl.constexpr):
    """One row at p as [BW], 0 beyond WIDTH."""
    o_w = tl.arange(0, BW)
    return tl.load(p + o_w, mask=o_w < WIDTH, other=0.0)


@triton.jit
def load_columns(p, o_rows, m_rows, stride, WIDTH, BW: tl.constexpr):
    """The rows of `load_rows` as columns, [BW, BM]."""
    o_w = tl.arange(0, BW)
    mask = (o_w < WIDTH)[:, None] & m_rows[None, :]
    return tl.load(p + o_rows[None, :] * stride + o_w[:, None], mask=mask, other=0.0)


@triton.jit
def of_head(p, strides, i_b, i_h):
    """Where the rows of head i_h of batch entry i_b begin, of [B, H, N, .] at p."""
    return p + i_b * strides[0] + i_h * strides[1]


@triton.jit
def row_places(o_rows, m_rows, stride, WIDTH: tl.constexpr, BW: tl.constexpr):
    """Offsets and mask [BM, BW] of rows, for several matrices that lie alike: it saves registers."""
    o_w = tl.arange(0, BW)
    return o_rows[:, None] * stride + o_w[None, :], m_rows[:, None] & (o_w < WIDTH)[None, :]
