"""Capped assignment: every vector to its nearest cluster that still has room, in rounds, without the host.

The first round is decided by one program a cluster, which finds by bisection how near a proposer must be to
be accepted. What is left over is a short list; one program a head plays the remaining rounds on it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, member_rows
from ..common.rows import load_rows, of_head
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .assign import check_centroids, finite, halves, nearest

UNPLACED = tl.constexpr(-2)


@triton.jit
def _bits(b_distance):
    """The bits of max(distance, 0) as an integer in the same order; -0 and rounding below zero become 0."""
    return tl.where(b_distance > 0, b_distance, 0.0).to(tl.int32, bitcast=True)


@triton.jit
def load_proposers(p_order, p_distance, i_start, i_end, BN: tl.constexpr):
    """BN proposers of one cluster from place i_start of `order` on: which there are, where they stand, their bits."""
    b_n, m_n = member_rows(p_order, i_start, i_end, BN)
    return m_n, b_n, _bits(tl.load(p_distance + b_n, mask=m_n, other=0.0))


@triton.jit
def accept_kernel(labels, distances, order, offsets, capacity, room, N, C, BN: tl.constexpr):
    # one program: one cluster of one head
    i_row, i_c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    p_label, p_distance, p_order = labels + i_row * N, distances + i_row * N, order + i_row * N
    i_start, i_end = cluster_span(offsets + i_row * (C + 1), i_c)
    n_room = tl.load(capacity + i_row).to(tl.int64)
    tl.store(room + i_row * C + i_c, tl.maximum(n_room - (i_end - i_start), 0).to(tl.int32))
    if i_end - i_start > n_room:
        # The bits of a float that is not negative order as the float: the smallest b_low such that at least
        # n_room members have bits <= b_low.
        b_low, b_high = tl.zeros([], dtype=tl.int32), tl.full([], 0x7F800000, dtype=tl.int32)
        for _ in range(31):
            b_middle = b_low + (b_high - b_low) // 2
            n_below = tl.zeros([], dtype=tl.int64)
            for i in range(i_start, i_end, BN):
                m_n, b_n, b_bits = load_proposers(p_order, p_distance, i, i_end, BN)
                n_below += tl.sum((m_n & (b_bits <= b_middle)).to(tl.int64))
            m_enough = n_below >= n_room
            b_high = tl.where(m_enough, b_middle, b_high)
            b_low = tl.where(m_enough | (b_low == b_high), b_low, b_middle + 1)
        # nearer than the threshold: accepted; at the threshold: in order of position while there is room
        n_nearer = tl.zeros([], dtype=tl.int64)
        for i in range(i_start, i_end, BN):
            m_n, b_n, b_bits = load_proposers(p_order, p_distance, i, i_end, BN)
            n_nearer += tl.sum((m_n & (b_bits < b_low)).to(tl.int64))
        n_ties = n_room - n_nearer
        for i in range(i_start, i_end, BN):
            m_n, b_n, b_bits = load_proposers(p_order, p_distance, i, i_end, BN)
            b_tie = (m_n & (b_bits == b_low)).to(tl.int64)
            b_rank = tl.cumsum(b_tie, axis=0) - b_tie
            m_refused = (b_bits > b_low) | ((b_tie > 0) & (b_rank >= n_ties))
            n_ties -= tl.sum(b_tie)
            tl.store(p_label + b_n, tl.full([BN], UNPLACED, dtype=tl.int64), mask=m_n & m_refused)


@triton.jit
def overflow_kernel(
    x, high, low, norm, labels, room, waiting, asked, asked_distance, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: one head
    H, N, C = sizes
    i_row = tl.program_id(0).to(tl.int64)
    o_m, o_bin = tl.arange(0, BM), tl.arange(0, BINS)
    p_x = of_head(x, x_strides, i_row // H, i_row % H)
    p_high, p_low, p_norm = high + i_row * C * D, low + i_row * C * D, norm + i_row * C
    p_room, p_label = room + i_row * C, labels + i_row * N
    p_waiting, p_asked, p_distance = waiting + i_row * N, asked + i_row * N, asked_distance + i_row * N

    n_waiting = tl.zeros([], dtype=tl.int32)
    for i in range(0, N, BM):  # the list of the unplaced, by position
        b_wait = (tl.load(p_label + i + o_m, mask=i + o_m < N, other=-1) == UNPLACED).to(tl.int32)
        tl.store(p_waiting + n_waiting + tl.cumsum(b_wait, axis=0) - b_wait, i + o_m, mask=b_wait > 0)
        n_waiting += tl.sum(b_wait)
    tl.debug_barrier()

    i_round = 0
    while (n_waiting > 0) & (i_round < C):
        for i in range(0, n_waiting, BM):  # everybody proposes
            m_m = i + o_m < n_waiting
            b_n = tl.load(p_waiting + i + o_m, mask=m_m, other=0).to(tl.int64)
            b_x = finite(load_rows(p_x, b_n, m_m, x_strides[2], D, BD))
            b_label, b_best = nearest(b_x, p_high, p_low, p_norm, p_room, C, D, BD, BC, True, PRECISION)
            tl.store(p_asked + i + o_m, b_label, mask=m_m)
            tl.store(p_distance + i + o_m, _bits(b_best), mask=m_m)
        tl.debug_barrier()
        b_taken = tl.zeros([BINS], dtype=tl.int32)
        n_left = tl.zeros([], dtype=tl.int32)
        for i in range(0, n_waiting, BM):  # the nearest are accepted while there is room
            m_m = i + o_m < n_waiting
            b_label = tl.load(p_asked + i + o_m, mask=m_m, other=0)
            b_bits = tl.load(p_distance + i + o_m, mask=m_m, other=0)
            b_rank = tl.zeros([BM], dtype=tl.int32)
            for k in range(0, n_waiting, BC):
                o_k = k + tl.arange(0, BC)
                b_other = tl.load(p_asked + o_k, mask=o_k < n_waiting, other=-1)
                b_near = tl.load(p_distance + o_k, mask=o_k < n_waiting, other=0)
                m_before = (b_near[None, :] < b_bits[:, None]) | (
                    (b_near[None, :] == b_bits[:, None]) & (o_k[None, :] < (i + o_m)[:, None])
                )
                m_before = m_before & (b_other[None, :] == b_label[:, None])  # [BM, BC]
                b_rank += tl.sum(m_before.to(tl.int32), axis=1)
            m_taken = m_m & (b_rank < tl.load(p_room + b_label, mask=m_m, other=0))
            b_n = tl.load(p_waiting + i + o_m, mask=m_m, other=0)
            tl.store(p_label + b_n, b_label.to(tl.int64), mask=m_taken)
            b_taken += tl.histogram(b_label, BINS, mask=m_taken)
        tl.debug_barrier()
        b_room = tl.load(p_room + o_bin, mask=o_bin < C, other=0)
        tl.debug_barrier()
        tl.store(p_room + o_bin, b_room - b_taken, mask=o_bin < C)
        for i in range(
            0, n_waiting, BM
        ):  # the others wait on; the list only shrinks and is rewritten in place
            m_m = i + o_m < n_waiting
            b_n = tl.load(p_waiting + i + o_m, mask=m_m, other=0)
            b_wait = (tl.load(p_label + b_n, mask=m_m, other=-1) == UNPLACED).to(tl.int32)
            tl.debug_barrier()
            tl.store(p_waiting + n_left + tl.cumsum(b_wait, axis=0) - b_wait, b_n, mask=b_wait > 0)
            n_left += tl.sum(b_wait)
        tl.debug_barrier()
        n_waiting = n_left
        i_round += 1


def capped_rounds(
    x: Tensor,
    centroids: Tensor,
    labels: Tensor,
    distances: Tensor,
    order: Tensor,
    offsets: Tensor,
    capacity: Tensor,
    tile: Tile | None = None,
) -> Tensor:
    """Turn nearest-centroid labels into labels with at most `capacity` members a cluster.

    Rounds: every vector without a place proposes to its nearest cluster with room (ties to the lower index);
    every cluster takes the nearest of its proposers while it has room (ties to the lower position). A round
    that leaves someone over has filled a cluster, so at most C rounds are needed.

    Parameters
    ----------
    x : [B, H, N, D]. centroids : [B, H, C, D] fp32.
    labels, distances : [B, H, N], from `assign`. order, offsets : from `sort_by_label` on those labels.
    capacity : [B, H] int32 on the device, ceil(cap * valid vectors / C).

    Returns
    -------
    labels [B, H, N], in the memory of those given where they are contiguous.

    Bytes: labels, distances and order once, 31 times more in the clusters that overflow (cache); x and the
    centroids again for the M vectors left over. Operations: M^2 comparisons and 4 M C D a round.
    """
    check_tensors("capped_rounds", x=x)
    B, H, N, D = x.shape
    C = check_centroids("capped_rounds", x, centroids)
    check_given("capped_rounds", torch.int32, x, capacity=(capacity, (B, H)))
    labels, distances, order, offsets, capacity = (
        y.contiguous() for y in (labels, distances, order, offsets, capacity)
    )
    x, centroids = row_strided(x), centroids.float().contiguous()
    BD, target = power_of_two(D), target_of(x)
    room = torch.empty(B, H, C, dtype=torch.int32, device=x.device)
    accept = choose("accept", target, BD, 4, tile)
    launch(
        accept_kernel, (B * H * C,), labels, distances, order, offsets, capacity, room, N, C,
        BN=accept.cols, tile=accept,
    )  # fmt: skip
    overflow = choose("overflow", target, BD, x.element_size(), tile)
    scratch = torch.empty(3, B, H, N, dtype=torch.int32, device=x.device)
    launch(
        overflow_kernel, (B * H,),
        x, *halves(centroids, x.dtype), labels, room, *scratch, x.stride()[:3], (H, N, C), D,
        BD=BD, BINS=power_of_two(C), BM=overflow.rows, BC=overflow.cols, PRECISION=fp32_precision(x), tile=overflow,
    )  # fmt: skip
    return labels
