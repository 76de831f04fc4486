"""Which keys a query sees in exact attention: padding, a mask for every query, the causal diagonal."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

NOBODY_HIDDEN, BY_KEY, BY_PAIR = 0, 1, 2


def mask_kind(valid: Tensor | None) -> int:
    """The MASKED argument of `visible` for a mask that is absent, [B, Nk] or [B, Nq, Nk]."""
    return NOBODY_HIDDEN if valid is None else valid.ndim - 1


@triton.jit
def visible(valid, i_b, o_q, o_k, NQ, NK, CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """Whether queries o_q see keys o_k, [BM, 1] and [1, BN] or the other way round; the queries are the last NQ."""
    m_s = (o_q < NQ) & (o_k < NK)
    if MASKED == 1:
        m_s = m_s & (tl.load(valid + i_b * NK + o_k, mask=o_k < NK, other=0) != 0)
    if MASKED == 2:
        m_s = m_s & (tl.load(valid + (i_b * NQ + o_q) * NK + o_k, mask=m_s, other=0) != 0)
    if CAUSAL:
        m_s = m_s & (o_k <= o_q + (NK - NQ))
    return m_s
