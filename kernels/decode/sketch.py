"""One decoding step, in part 1: log sums over the members of clusters, from two bits of each of their coordinates."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Residuals(NamedTuple):
    """What is known of the members of fine clusters beside their mean; see `multipole_lab.decoding.store.sketch`.

    codes : [R, capacity, W] uint8, W = D / 4 rounded up. sizes : [R, capacity]. first : [R, room] int32, the first
    member of every cluster.
    """

    codes: Tensor
    sizes: Tensor
    first: Tensor


@triton.jit
def levels(b_byte, k: tl.constexpr, dtype: tl.constexpr):
    """4^k times the k-th two bits of bytes, as dtype and exact: they stay where they lie.

    With an exponent set by an or they are the last bits of a number, and that exponent's power is taken off.
    """
    if dtype == tl.float16:
        b_bits = (b_byte.to(tl.int16) & (3 << (2 * k))) | 0x6400
        b_level = b_bits.to(tl.float16, bitcast=True) - 1024.0
    elif dtype == tl.bfloat16 and k < 3:
        b_bits = (b_byte.to(tl.int16) & (3 << (2 * k))) | 0x4300
        b_level = b_bits.to(tl.bfloat16, bitcast=True) - 128.0
    elif dtype == tl.bfloat16:
        b_bits = ((b_byte >> 1).to(tl.int16) & (3 << 5)) | 0x4380
        b_level = b_bits.to(tl.bfloat16, bitcast=True) - 256.0
    else:
        b_level = (b_byte & (3 << (2 * k))).to(dtype)
    return b_level.to(dtype)


@triton.jit
def residual_masses(
    p_q, p_codes, p_size, b_first, b_n, scale, G: tl.constexpr, D: tl.constexpr, BG: tl.constexpr,
    BD: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BG, BC]: log sum_i exp(s q.r_i) over the b_n members of clusters from the places b_first on, BN members a time.

    r_i = size_i code_i: byte j of a code has the coordinates j, j + W, j + 2 W and j + 3 W, of -3, -1, 1 or 3.
    """
    W: tl.constexpr = (D + 3) // 4
    BW: tl.constexpr = BD // 4 if BD >= 64 else 16  # the least that a product takes
    o_g, o_w = tl.arange(0, BG), tl.arange(0, BW)
    # the members of all these clusters, one after the other; b_shift leads from there to their place in the storage
    b_end = tl.cumsum(b_n, axis=0)
    b_begin = b_end - b_n
    b_shift, n_all = b_first - b_begin, tl.sum(b_n)
    o_d = tl.arange(0, BD)
    m_all = (o_g < G)[:, None] & (o_d < D)[None, :]
    b_all = tl.sum(
        tl.load(p_q + o_g[:, None] * D + o_d[None, :], mask=m_all, other=0.0).to(tl.float32), axis=1
    )
    b_max = tl.full([BG], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BG, b_n.shape[0]], dtype=tl.float32)
    for i in range(0, n_all, BN):
        o_n = i + tl.arange(0, BN)
        m_n = o_n < n_all
        m_own = (o_n[:, None] >= b_begin[None, :]) & (o_n[:, None] < b_end[None, :])  # [BN, BC]
        b_place = o_n + tl.sum(tl.where(m_own, b_shift[None, :], 0), axis=1)
        b_size = tl.load(p_size + b_place, mask=m_n, other=0.0).to(tl.float32)
        p_byte = p_codes + b_place.to(tl.int64)[:, None] * W + o_w[None, :]
        b_byte = tl.load(p_byte, mask=m_n[:, None] & (o_w < W)[None, :], other=0)
        b_s = tl.zeros([BG, BN], dtype=tl.float32)
        for k in tl.static_range(4):
            m_d = (o_w < W) & (k * W + o_w < D)
            m_q = (o_g < G)[:, None] & m_d[None, :]
            b_q = tl.load(p_q + o_g[:, None] * D + k * W + o_w[None, :], mask=m_q, other=0.0)
            b_s += tl.dot(b_q, tl.trans(levels(b_byte, k, b_q.dtype)), input_precision=PRECISION) * (
                2.0 / 4**k
            )
        b_s -= 3.0 * b_all[:, None]
        b_s = tl.where(m_n[None, :], b_s * (scale * b_size)[None, :], float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_s, axis=1))
        b_e = tl.exp(b_s - b_new[:, None])
        b_own, b_high = m_own.to(p_q.dtype.element_ty), b_e.to(p_q.dtype.element_ty)
        b_sum = tl.dot(b_high, b_own, b_sum * tl.exp(b_max - b_new)[:, None], input_precision=PRECISION)
        if p_q.dtype.element_ty != tl.float32:  # what rounding left: sums are as exact as the other masses
            b_sum = tl.dot((b_e - b_high.to(tl.float32)).to(b_own.dtype), b_own, b_sum)
        b_max = b_new
    # a cluster far below the largest of its neighbours: the mean of exponentials is at least that of the mean
    b_count = tl.log(tl.maximum(b_n, 1).to(tl.float32))[None, :]
    return tl.where(b_sum > 0.0, b_max[:, None] + tl.log(tl.maximum(b_sum, 1e-37)), b_count)
