"""The first round of a capped assignment, without a sort: every cluster that too many ask finds them by their labels.

Labels of one byte are read by every such cluster from the cache, which takes less time than the three launches of a
sort; most clusters have room for all who ask, and end at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .settle import keep_waiting, last_taken, make_key


@triton.jit
def members_before(p_chunks, i_c, CHUNKS, C, BN: tl.constexpr):
    """How many ask cluster i_c, from the counts of every chunk of labels, [CHUNKS, C + 1] at p_chunks."""
    b_count = tl.zeros([BN], tl.int32)
    for i in range(0, CHUNKS, BN):
        o_chunk = i + tl.arange(0, BN)
        b_count += tl.load(p_chunks + o_chunk * (C + 1) + i_c, mask=o_chunk < CHUNKS, other=0)
    return tl.sum(b_count)


@triton.jit
def crowds_kernel(
    labels, distances, chunk_counts, capacity, room, keys, waiting, counts, sizes,
    BS: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of one head; it reads BS labels, and holds BN keys at a time
    H, N, C, CHUNKS, CAPACITY, HEADS = sizes
    i_row, i_c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    n_room = CAPACITY
    if MASKED:
        n_room = tl.load(capacity + i_row // H)
    n_asked = members_before(chunk_counts + i_row * CHUNKS * (C + 1), i_c, CHUNKS, C, 256)
    tl.store(room + i_row * C + i_c, tl.maximum(n_room - n_asked, 0))
    if n_asked > n_room:
        p_key, o_s = keys + i_row * N, tl.arange(0, BS)
        # a part of the head's list of keys for this cluster's own; which part is no matter
        i_start = tl.atomic_add(counts + i_row, n_asked).to(tl.int64)
        i_place = i_start
        for i in range(0, N, BS):
            b_n = i + o_s
            m_asks = tl.load(labels + i_row * N + b_n, mask=b_n < N, other=-1).to(tl.int32) == i_c
            b_distance = tl.load(distances + i_row * N + b_n, mask=m_asks, other=0.0)
            b_asks = m_asks.to(tl.int32)
            p_place = p_key + i_place + tl.cumsum(b_asks, axis=0) - b_asks
            tl.store(p_place, make_key(b_distance, b_n), mask=m_asks)
            i_place += tl.sum(b_asks)
        tl.debug_barrier()
        i_end = i_start + n_asked
        i_cut = last_taken(p_key, p_key, i_start, i_end, i_c, n_room, BN, True)
        i_place = tl.atomic_add(counts + HEADS + i_row, n_asked - n_room).to(tl.int64)
        keep_waiting(p_key, p_key, waiting + i_row * N + i_place, i_start, i_end, i_c, i_cut, BN, True)
