"""The members of every cluster, found by their labels, and their mean: the sort and the means of a capped clustering.

How many members a cluster has is known, so that one program a cluster writes them where they belong.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.rows import of_head
from .centroids import mean_of_members


@triton.jit
def gather_kernel(
    x, labels, capacity, room, order, offsets, counts, full_labels, means, x_strides, sizes, D: tl.constexpr,
    BD: tl.constexpr, BINS: tl.constexpr, BS: tl.constexpr, BM: tl.constexpr, MASKED: tl.constexpr,
    MEANS: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of one head, or its padding, BS labels at a time
    H, N, C, CAPACITY = sizes
    SLOTS = C + 1 if MASKED else C
    i_row, i_c = (tl.program_id(0) // SLOTS).to(tl.int64), tl.program_id(0) % SLOTS
    n_room = CAPACITY
    if MASKED:
        n_room = tl.load(capacity + i_row // H)
    o_bin, o_s = tl.arange(0, BINS), tl.arange(0, BS)
    b_count = n_room - tl.load(room + i_row * C + o_bin, mask=o_bin < C, other=0)
    b_count = tl.where(o_bin < C, b_count, 0)
    i_start = tl.sum(tl.where(o_bin < i_c, b_count, 0)).to(tl.int64)
    n_members = tl.sum(tl.where(o_bin == i_c, b_count, 0)).to(tl.int64)
    tl.store(offsets + i_row * (C + 1) + i_c, i_start)  # of the padding the last one
    if i_c < C:
        tl.store(counts + i_row * C + i_c, n_members)
        tl.store(offsets + i_row * (C + 1) + C, tl.sum(b_count).to(tl.int64))
    i_label, i_place = tl.where(i_c < C, i_c, -1), i_start
    for i in range(0, N, BS):
        b_n = i + o_s
        m_here = tl.load(labels + i_row * N + b_n, mask=b_n < N, other=-2).to(tl.int32) == i_label
        b_here = m_here.to(tl.int32)
        o_place = i_row * N + i_place + tl.cumsum(b_here, axis=0) - b_here
        tl.store(order + o_place, b_n.to(tl.int64), mask=m_here)
        if MEANS:
            tl.store(full_labels + i_row * N + b_n, tl.zeros([BS], tl.int64) + i_label, mask=m_here)
        i_place += tl.sum(b_here)
    if MEANS:
        tl.debug_barrier()
        if i_c < C:
            p_x = of_head(x, x_strides, i_row // H, i_row % H)
            b_mean = mean_of_members(
                p_x, order + i_row * N, i_start, i_start + n_members, x_strides[2], D, BD, BM, False
            )
            o_d = tl.arange(0, BD)
            tl.store(means + (i_row * C + i_c) * D + o_d, b_mean, mask=o_d < D)
