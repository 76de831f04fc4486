"""Which keys a query sees in exact attention: padding, a mask for every query, the causal diagonal, a band."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

NOBODY_HIDDEN, BY_KEY, BY_PAIR = 0, 1, 2


class Band(NamedTuple):
    """A window that moves with the query, from `behind` keys before its position to `ahead` after it, and `sinks`
    leading keys that every query sees. All at least 0."""

    behind: int
    ahead: int
    sinks: int


NO_BAND = Band(0, 0, 0)  # what a kernel is given in place of none, and does not read


def mask_kind(valid: Tensor | None) -> int:
    """The MASKED argument of `visible` for a mask that is absent, [B, Nk] or [B, Nq, Nk]."""
    return NOBODY_HIDDEN if valid is None else valid.ndim - 1


@triton.jit
def visible(
    valid, i_b, o_q, o_k, band, NQ, NK, CAUSAL: tl.constexpr, MASKED: tl.constexpr, BANDED: tl.constexpr
):
    """Whether queries o_q see keys o_k, [BM, 1] and [1, BN] or the other way round; the queries are the last NQ."""
    m_s = (o_q < NQ) & (o_k < NK)
    if MASKED == 1:
        m_s = m_s & (tl.load(valid + i_b * NK + o_k, mask=o_k < NK, other=0) != 0)
    if MASKED == 2:
        m_s = m_s & (tl.load(valid + (i_b * NQ + o_q) * NK + o_k, mask=m_s, other=0) != 0)
    if CAUSAL:
        m_s = m_s & (o_k <= o_q + (NK - NQ))
    if BANDED:
        BEHIND, AHEAD, SINKS = band
        i_at = o_q + (NK - NQ)
        m_s = m_s & ((o_k < SINKS) | ((o_k >= i_at - BEHIND) & (o_k <= i_at + AHEAD)))
    return m_s


@triton.jit
def keys_in_sight(
    i_m, band, NQ, NK, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, BANDED: tl.constexpr
):
    """The keys that queries i_m to i_m + BM may see, for a loop over tiles of BN: where it ends, where the sinks' tiles
    end, and how many keys it leaves out behind those, to go on with the band."""
    i_last = NK
    if CAUSAL:
        i_last = tl.minimum(NK, i_m + BM + NK - NQ)
    i_sinks, i_gap = 0, 0
    if BANDED:
        BEHIND, AHEAD, SINKS = band
        i_at = i_m + NK - NQ
        i_sinks = (SINKS + BN - 1) // BN * BN
        i_gap = tl.maximum(i_sinks, tl.maximum(i_at - BEHIND, 0) // BN * BN) - i_sinks
        i_last = tl.maximum(tl.minimum(i_last, i_at + BM + AHEAD) - i_gap, tl.minimum(i_sinks, i_last))
    return i_last, i_sinks, i_gap


@triton.jit
def queries_in_sight(
    i_m, band, NQ, NK, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, BANDED: tl.constexpr
):
    """The first, on a tile's edge, and the end of the queries that may see keys i_m to i_m + BM, unless as sinks."""
    i_first, i_last = 0, NQ
    if CAUSAL:
        i_first = tl.maximum(0, i_m - (NK - NQ)) // BN * BN
    if BANDED:
        BEHIND, AHEAD, SINKS = band
        i_first = tl.maximum(0, i_m - AHEAD - (NK - NQ)) // BN * BN
        i_last = tl.maximum(0, tl.minimum(NQ, i_m + BM + BEHIND - (NK - NQ)))
    return i_first, i_last
