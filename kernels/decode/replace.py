"""One decoding step, part 3a: clusters that were not opened stand for their keys (centroid replacement)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def online_softmax(b_out, b_max, b_sum, b_a, b_v, PRECISION: tl.constexpr):
    """Add keys of logits b_a [BG, BN] and values b_v [BN, BDV] to the running softmax."""
    b_new = tl.maximum(b_max, tl.max(b_a, axis=1))
    b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
    b_w = tl.exp(b_a - b_shift[:, None])
    b_keep = tl.exp(b_max - b_shift)
    b_sum = b_sum * b_keep + tl.sum(b_w, axis=1)
    b_half = b_w.to(b_v.dtype)
    b_out = tl.dot(b_half, b_v, b_out * b_keep[:, None], input_precision=PRECISION)
    if b_v.dtype != tl.float32:  # what rounding took from the weights: products cost nothing here, bytes do
        b_out = tl.dot((b_w - b_half.to(tl.float32)).to(b_v.dtype), b_v, b_out)
    return b_out, b_new, b_sum


@triton.jit
def replace_chunk(
    b_out, b_max, b_sum, p_mass, p_opened, p_listed, p_value, begin, end, stride_m, sinks, clustered,
    G: tl.constexpr, DV: tl.constexpr, BN: tl.constexpr, OPENED: tl.constexpr, LISTED: tl.constexpr,
    EXACT: tl.constexpr, PRECISION: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Far partial: sum_j exp(a_j) v_j, v_j the mean value, over clusters begin .. end that are not opened.

    p_mass : [G, ..] with row stride stride_m. OPENED: p_opened says what to leave out. LISTED: entry i is
    cluster p_listed[i]. EXACT: entry i is the i-th exact key and p_value the storage; its logit is its mass.
    """
    o_g, o_n, o_dv = tl.arange(0, b_out.shape[0]), tl.arange(0, BN), tl.arange(0, b_out.shape[1])
    for i in range(begin, end, BN):
        b_i = i + o_n
        m_n = b_i < end
        b_a = tl.load(
            p_mass + o_g[:, None] * stride_m + b_i[None, :],
            mask=(o_g < G)[:, None] & m_n[None, :],
            other=float("-inf"),
        )  # [BG, BN]
        if OPENED:
            m_n = m_n & (tl.load(p_opened + b_i, mask=m_n, other=1) == 0)
            b_a = tl.where(m_n[None, :], b_a, float("-inf"))
        b_row = b_i.to(tl.int64)
        if LISTED:
            b_row = tl.load(p_listed + b_i, mask=m_n, other=0).to(tl.int64)
        if EXACT:
            b_row = tl.where(b_i < sinks, b_i, b_i - sinks + clustered).to(tl.int64)
        m_v = m_n[:, None] & (o_dv < DV)[None, :]
        b_v = tl.load(p_value + b_row[:, None] * DV + o_dv[None, :], mask=m_v, other=0.0)  # [BN, BDV]
        # an empty cluster's or a padded key's value may be anything, and 0 * inf is no 0
        m_seen = tl.max(b_a, axis=0) > float("-inf")
        b_v = tl.where(m_seen[:, None], b_v, 0.0).to(dtype)
        b_out, b_max, b_sum = online_softmax(b_out, b_max, b_sum, b_a, b_v, PRECISION)
    return b_out, b_max, b_sum
