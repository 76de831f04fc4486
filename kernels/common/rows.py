"""Rows of a matrix in device memory: one helper loads them, one stores them, whatever the strides."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(p, o_rows, m_rows, stride, WIDTH: tl.constexpr, BW: tl.constexpr, i_from=0):
    """Rows o_rows [BM] of a matrix at p whose rows are `stride` apart, as [BM, BW]: 0 beyond WIDTH or m_rows.

    i_from : the first of the BW columns, where a row is read in several steps.
    """
    o_w = i_from + tl.arange(0, BW)
    mask = m_rows[:, None] & (o_w < WIDTH)[None, :]
    return tl.load(p + o_rows[:, None] * stride + o_w[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(p, o_rows, m_rows, stride, b, WIDTH: tl.constexpr, BW: tl.constexpr, i_from=0):
    """Write b [BM, BW] to rows o_rows [BM] of a matrix at p, in the matrix's own dtype, from column i_from on."""
    o_w = i_from + tl.arange(0, BW)
    mask = m_rows[:, None] & (o_w < WIDTH)[None, :]
    tl.store(p + o_rows[:, None] * stride + o_w[None, :], b.to(p.dtype.element_ty), mask=mask)


@triton.jit
def load_row(p, WIDTH: tl.constexpr, BW: tl.constexpr, i_from=0):
    """One row at p as [BW], 0 beyond WIDTH."""
    o_w = i_from + tl.arange(0, BW)
    return tl.load(p + o_w, mask=o_w < WIDTH, other=0.0)


@triton.jit
def load_columns(p, o_rows, m_rows, stride, WIDTH: tl.constexpr, BW: tl.constexpr, i_from=0):
    """The rows of `load_rows` as columns, [BW, BM]."""
    o_w = i_from + tl.arange(0, BW)
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


@triton.jit
def load_tile(p, m_rows, stride, WIDTH: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr):
    """The BM rows that begin at p, `stride` apart, as [BM, BW]; those of m_rows, or all where it is None.

    From a 64-bit beginning rows are counted in 32 bits, which holds the fewest registers.
    """
    o_m, o_w = tl.arange(0, BM), tl.arange(0, BW)
    mask = (o_w < WIDTH)[None, :]
    if m_rows is not None:
        mask = m_rows[:, None] & mask
    return tl.load(p + (o_m[:, None] * stride + o_w[None, :]), mask=mask, other=0.0)


@triton.jit
def store_tile(p, m_rows, stride, b, WIDTH: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr):
    """Write b [BM, BW] to the BM rows that begin at p, in the dtype there."""
    o_m, o_w = tl.arange(0, BM), tl.arange(0, BW)
    mask = m_rows[:, None] & (o_w < WIDTH)[None, :]
    tl.store(p + (o_m[:, None] * stride + o_w[None, :]), b.to(p.dtype.element_ty), mask=mask)
