"""One round of a capped assignment: every cluster takes the nearest of those who ask, while it has room.

A key orders them: the bits of the distance, then the position. So no two keys are equal, a cluster finds the key of the
last that it takes by bisection, and the result does not depend on the order in which programs write their lists.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.members import cluster_span

ABOVE_ALL = tl.constexpr((1 << 63) - 1)  # no key is as large


@triton.jit
def make_key(b_distance, b_n):
    """Distance and position as one integer that orders by both; -0 and rounding below zero count as 0."""
    b_bits = tl.where(b_distance > 0, b_distance, 0.0).to(tl.int32, bitcast=True)
    return (b_bits.to(tl.int64) << 32) | b_n.to(tl.int64)


@triton.jit
def load_askers(p_key, p_asked, i, i_end, i_c, BN: tl.constexpr, FIRST: tl.constexpr):
    """The BN keys from place i on, and which of them ask cluster i_c; in the first round all before i_end do."""
    o_n = i + tl.arange(0, BN)
    m_n = o_n < i_end
    if not FIRST:
        m_n = m_n & (tl.load(p_asked + o_n, mask=m_n, other=-1) == i_c)
    return tl.load(p_key + o_n, mask=m_n, other=0), m_n


@triton.jit
def last_taken(p_key, p_asked, i_start, i_end, i_c, n_room, BN: tl.constexpr, FIRST: tl.constexpr):
    """The largest of the n_room smallest keys of those who ask, who are more than that."""
    # The first BN stay in registers, and those are mostly all.
    b_first, m_first = load_askers(p_key, p_asked, i_start, i_end, i_c, BN, FIRST)
    i_low, i_high = tl.min(tl.where(m_first, b_first, ABOVE_ALL)), tl.max(b_first)
    for i in range(i_start + BN, i_end, BN):
        b_key, m_n = load_askers(p_key, p_asked, i, i_end, i_c, BN, FIRST)
        i_low = tl.minimum(i_low, tl.min(tl.where(m_n, b_key, ABOVE_ALL)))
        i_high = tl.maximum(i_high, tl.max(b_key))
    i_low -= 1  # none is at most that; all are at most i_high
    i_cut, n_below = i_low, tl.zeros([], tl.int32)
    while n_below != n_room:
        i_cut = i_low + ((i_high - i_low) >> 1)
        n_below = tl.sum((m_first & (b_first <= i_cut)).to(tl.int32))
        for i in range(i_start + BN, i_end, BN):
            b_key, m_n = load_askers(p_key, p_asked, i, i_end, i_c, BN, FIRST)
            n_below += tl.sum((m_n & (b_key <= i_cut)).to(tl.int32))
        i_low = tl.where(n_below < n_room, i_cut, i_low)
        i_high = tl.where(n_below < n_room, i_high, i_cut)
    return i_cut


@triton.jit
def keep_waiting(
    p_key, p_asked, p_waiting, i_start, i_end, i_c, i_cut, BN: tl.constexpr, FIRST: tl.constexpr
):
    """Write the positions of those who ask and are above the cut, from p_waiting on."""
    for i in range(i_start, i_end, BN):
        b_key, m_n = load_askers(p_key, p_asked, i, i_end, i_c, BN, FIRST)
        b_wait = (m_n & (b_key > i_cut)).to(tl.int32)
        p_place = p_waiting + tl.cumsum(b_wait, axis=0) - b_wait
        tl.store(p_place, b_key.to(tl.int32), mask=b_wait > 0)  # the position is the lower half
        p_waiting += tl.sum(b_wait)


@triton.jit
def settle_kernel(
    labels, distances, order, offsets, capacity, room, keys, asked, waiting, counts, sizes,
    BN: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of one head takes who is near, and writes the others to the list of those who wait
    N, C, HEADS = sizes
    i_row, i_c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    p_key, p_asked, o_n = keys + i_row * N, asked + i_row * N, tl.arange(0, BN)
    if FIRST:
        i_start, i_end = cluster_span(offsets + i_row * (C + 1), i_c)
        n_room, n_asked = tl.load(capacity + i_row), (i_end - i_start).to(tl.int32)
    else:
        i_start, i_end = tl.zeros([], tl.int64), tl.load(counts + i_row).to(tl.int64)
        n_room, n_asked = tl.load(room + i_row * C + i_c), tl.zeros([], tl.int32)
        for i in range(i_start, i_end, BN):
            b_key, m_n = load_askers(p_key, p_asked, i, i_end, i_c, BN, FIRST)
            n_asked += tl.sum(m_n.to(tl.int32))
    tl.debug_barrier()
    tl.store(room + i_row * C + i_c, tl.maximum(n_room - n_asked, 0))
    i_cut = tl.full([], ABOVE_ALL, tl.int64)
    if n_asked > n_room:
        if FIRST:  # who asks lies together, sorted by label
            for i in range(i_start, i_end, BN):
                m_n = i + o_n < i_end
                b_n = tl.load(order + i_row * N + i + o_n, mask=m_n, other=0)
                b_distance = tl.load(distances + i_row * N + b_n, mask=m_n, other=0.0)
                tl.store(p_key + i + o_n, make_key(b_distance, b_n), mask=m_n)
            tl.debug_barrier()
        i_cut = last_taken(p_key, p_asked, i_start, i_end, i_c, n_room, BN, FIRST)
        i_place = tl.atomic_add(counts + HEADS + i_row, n_asked - n_room)  # counts [rounds, heads]
        keep_waiting(p_key, p_asked, waiting + i_row * N + i_place, i_start, i_end, i_c, i_cut, BN, FIRST)
    if not FIRST:
        for i in range(i_start, i_end, BN):
            b_key, m_n = load_askers(p_key, p_asked, i, i_end, i_c, BN, FIRST)
            b_label = tl.zeros([BN], tl.int64) + i_c
            tl.store(labels + i_row * N + b_key.to(tl.int32), b_label, mask=m_n & (b_key <= i_cut))
