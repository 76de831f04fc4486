"""Logits of one decoding step: the queries of a group against vectors anywhere in memory."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Exact(NamedTuple):
    """The keys that are always exact: rows 0 .. sinks and clustered .. length of the storage.

    q : [R, G, D]. keys : [R, capacity, D]. valid : [B, sinks + tail] bool, or None.
    """

    q: Tensor
    keys: Tensor
    sinks: int
    clustered: int
    length: int
    valid: Tensor | None = None

    @property
    def size(self) -> int:
        return self.sinks + self.length - self.clustered


@triton.jit
def capped(b_s, softcap, SOFTCAP: tl.constexpr):
    """The logits, or softcap tanh(logits / softcap)."""
    if SOFTCAP:
        b_s = softcap * (1.0 - 2.0 / (tl.exp(2.0 * b_s / softcap) + 1.0))
    return b_s


@triton.jit
def logits_of_rows(
    p_q, p_row, m_n, scale, softcap, G: tl.constexpr, D: tl.constexpr,
    BG: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BG, BN]: the logits of the queries at p_q and the vectors at the BN pointers p_row, BK dimensions a time."""
    o_g, o_k = tl.arange(0, BG), tl.arange(0, BK)
    b_s = tl.zeros([BG, p_row.shape[0]], dtype=tl.float32)
    for i in range(0, BD, BK):
        m_d = i + o_k < D
        b_q = tl.load(
            p_q + o_g[:, None] * D + i + o_k[None, :], mask=(o_g < G)[:, None] & m_d[None, :], other=0.0
        )
        b_k = tl.load(p_row[:, None] + i + o_k[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k.to(b_q.dtype)), b_s, input_precision=PRECISION)
    return capped(b_s * scale, softcap, SOFTCAP)


@triton.jit
def squares(
    p_q, scale, G: tl.constexpr, D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr
):
    """[BG]: s^2 |q|^2."""
    o_g, o_k = tl.arange(0, BG), tl.arange(0, BK)
    b_square = tl.zeros([BG], dtype=tl.float32)
    for i in range(0, BD, BK):
        m_q = (o_g < G)[:, None] & (i + o_k < D)[None, :]
        b_q = tl.load(p_q + o_g[:, None] * D + i + o_k[None, :], mask=m_q, other=0.0).to(tl.float32) * scale
        b_square += tl.sum(b_q * b_q, axis=1)
    return b_square


@triton.jit
def exact_rows(o_e, sinks, clustered):
    """Storage rows of the exact keys, counted from the first sink."""
    return tl.where(o_e < sinks, o_e, o_e - sinks + clustered).to(tl.int64)
