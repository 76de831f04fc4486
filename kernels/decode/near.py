"""One decoding step, part 3b: exact attention over the members of the opened clusters."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.online import softmax_step
from ..common.rows import load_rows
from .logits import capped


@triton.jit
def attend_chunk(
    b_out, b_max, b_sum, b_q, p_k, p_v, p_members, begin, end, scale, softcap,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Near partial: softmax attention over the storage rows members[begin .. end]."""
    o_n = tl.arange(0, BN)
    for i in range(begin, end, BN):
        m_n = i + o_n < end
        b_row = tl.load(p_members + i + o_n, mask=m_n, other=0).to(tl.int64)
        b_k = load_rows(p_k, b_row, m_n, D, D, BD)
        b_v = load_rows(p_v, b_row, m_n, DV, DV, b_out.shape[1])
        b_a = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale  # [BG, BN]
        b_a = tl.where(m_n[None, :], capped(b_a, softcap, SOFTCAP), float("-inf"))
        b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_a, b_v, PRECISION, SPLIT=True)
    return b_out, b_max, b_sum
