"""One decoding step, part 3a: clusters that were not opened stand for their keys (centroid replacement)."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.online import softmax_step
from ..common.rows import load_rows
from .cut import load_masses
from .logits import exact_rows


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
    o_n = tl.arange(0, BN)
    for i in range(begin, end, BN):
        b_i = i + o_n
        m_n = b_i < end
        b_a = load_masses(p_mass, b_i, end, stride_m, G, b_out.shape[0])  # [BG, BN]
        if OPENED:
            m_n = m_n & (tl.load(p_opened + b_i, mask=m_n, other=1) == 0)
            b_a = tl.where(m_n[None, :], b_a, float("-inf"))
        b_row = b_i.to(tl.int64)
        if LISTED:
            b_row = tl.load(p_listed + b_i, mask=m_n, other=0).to(tl.int64)
        if EXACT:
            b_row = exact_rows(b_i, sinks, clustered)
        b_v = load_rows(p_value, b_row, m_n, DV, DV, b_out.shape[1])
        # an empty cluster's or a padded key's value may be anything, and 0 * inf is no 0
        m_seen = tl.max(b_a, axis=0) > float("-inf")
        b_v = tl.where(m_seen[:, None], b_v, 0.0).to(dtype)
        b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_a, b_v, PRECISION, SPLIT=True)
    return b_out, b_max, b_sum
