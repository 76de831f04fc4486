"""One decoding step, part 3b: exact attention over the members of the opened clusters."""

from __future__ import annotations

import triton
import triton.language as tl

from .logits import capped
from .replace import online_softmax


@triton.jit
def load_queries(q, i_row, G: tl.constexpr, D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr):
    """[BG, BD]: the queries of one row; zero behind the group."""
    o_g, o_d = tl.arange(0, BG), tl.arange(0, BD)
    m_q = (o_g < G)[:, None] & (o_d < D)[None, :]
    return tl.load(q + (i_row * G + o_g)[:, None] * D + o_d[None, :], mask=m_q, other=0.0)


@triton.jit
def attend_chunk(
    b_out, b_max, b_sum, b_q, p_k, p_v, p_members, begin, end, scale, softcap,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Near partial: softmax attention over the storage rows members[begin .. end]."""
    o_n, o_d, o_dv = tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, b_out.shape[1])
    for i in range(begin, end, BN):
        m_n = i + o_n < end
        b_row = tl.load(p_members + i + o_n, mask=m_n, other=0).to(tl.int64)
        m_k, m_v = m_n[:, None] & (o_d < D)[None, :], m_n[:, None] & (o_dv < DV)[None, :]
        b_k = tl.load(p_k + b_row[:, None] * D + o_d[None, :], mask=m_k, other=0.0)  # [BN, BD]
        b_v = tl.load(p_v + b_row[:, None] * DV + o_dv[None, :], mask=m_v, other=0.0)  # [BN, BDV]
        b_a = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale  # [BG, BN]
        b_a = tl.where(m_n[None, :], capped(b_a, softcap, SOFTCAP), float("-inf"))
        b_out, b_max, b_sum = online_softmax(b_out, b_max, b_sum, b_a, b_v, PRECISION)
    return b_out, b_max, b_sum
