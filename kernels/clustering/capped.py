"""Capped assignment: every vector to its nearest cluster that still has room, in rounds, without the host.

In a round every waiting vector asks the nearest cluster with room, and every cluster takes its nearest (`settle`).
The first rounds run on the whole device; after them few wait, and one program a head plays the others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.rows import load_rows, of_head
from ..common.sizes import PROGRAMS, cdiv, power_of_two
from ..common.tiles import Tile, choose
from .assign import Halves, check_centroids, finite, halves, nearest
from .settle import make_key, settle_kernel

# Of so many who wait one program plays all further rounds in about the time of two launches. On real keys a tenth waits
# after the first round, and of those a quarter after each further one.
FEW = 640


@triton.jit
def ask(
    p_x, p_high, p_low, p_norm, p_room, p_waiting, p_key, p_asked, i, n_waiting, stride_xn, C,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """BM of those who wait, from place i on, ask the nearest cluster with room."""
    o_m = i + tl.arange(0, BM)
    m_m = o_m < n_waiting
    b_n = tl.load(p_waiting + o_m, mask=m_m, other=0)
    b_x = finite(load_rows(p_x, b_n.to(tl.int64), m_m, stride_xn, D, BD))
    b_label, b_best = nearest(b_x, p_high, p_low, p_norm, p_room, C, D, BD, BC, True, PRECISION)
    tl.store(p_asked + o_m, b_label, mask=m_m)
    tl.store(p_key + o_m, make_key(b_best, b_n), mask=m_m)


@triton.jit
def ask_kernel(
    x, centroids, room, keys, asked, waiting, counts, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: every PARTS-th tile of those who wait in one head
    H, N, C, PARTS = sizes
    high, low, norm = centroids
    i_row, i_part = (tl.program_id(0) // PARTS).to(tl.int64), tl.program_id(0) % PARTS
    p_x, o_c = of_head(x, x_strides, i_row // H, i_row % H), i_row * C
    n_waiting = tl.load(counts + i_row)
    for i in range(i_part * BM, n_waiting, PARTS * BM):
        ask(
            p_x, high + o_c * D, low + o_c * D, norm + o_c, room + o_c, waiting + i_row * N, keys + i_row * N,
            asked + i_row * N, i, n_waiting, x_strides[2], C, D, BD, BM, BC, PRECISION,
        )  # fmt: skip


@triton.jit
def play_rounds(
    p_x, p_high, p_low, p_norm, p_label, p_room, p_waiting, p_key, p_asked, n_waiting, i_first, stride_xn, C,
    D: tl.constexpr, BD: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
    BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All rounds of those who wait in one head, from round i_first on; in round 0 they have asked already, with their
    keys in the list."""
    o_m, o_bin = tl.arange(0, BM), tl.arange(0, BINS)
    i_round = tl.zeros([], dtype=tl.int32) + i_first
    while (n_waiting > 0) & (i_round <= C):
        if i_round > 0:
            for i in range(0, n_waiting, BM):
                ask(
                    p_x, p_high, p_low, p_norm, p_room, p_waiting, p_key, p_asked, i, n_waiting,
                    stride_xn, C, D, BD, BM, BC, PRECISION,
                )  # fmt: skip
            tl.debug_barrier()
        for i in range(0, n_waiting, BM):  # a cluster takes who has fewer before him than it has room
            m_m = i + o_m < n_waiting
            b_label = tl.load(p_asked + i + o_m, mask=m_m, other=0)
            b_key = tl.load(p_key + i + o_m, mask=m_m, other=0)
            b_before = tl.zeros([BM, BK], dtype=tl.int32)
            for k in range(0, n_waiting, BK):
                o_k = k + tl.arange(0, BK)
                b_other = tl.load(p_asked + o_k, mask=o_k < n_waiting, other=-1)
                b_near = tl.load(p_key + o_k, mask=o_k < n_waiting, other=0)
                m_before = (b_near[None, :] < b_key[:, None]) & (b_other[None, :] == b_label[:, None])
                b_before += m_before.to(tl.int32)  # added up once, for sums ask all threads of a row
            b_rank = tl.sum(b_before, axis=1)
            m_taken = m_m & (b_rank < tl.load(p_room + b_label, mask=m_m, other=0))
            tl.store(p_label + b_key.to(tl.int32), b_label.to(tl.int64), mask=m_taken)
            tl.store(p_waiting + i + o_m, tl.full([BM], -1, tl.int32), mask=m_taken)
        tl.debug_barrier()
        b_room = tl.load(p_room + o_bin, mask=o_bin < C, other=0)
        n_left = tl.zeros([], dtype=tl.int32)
        for i in range(0, n_waiting, BN):  # the list only shrinks, and is written in place
            o_n = i + tl.arange(0, BN)
            b_n = tl.load(p_waiting + o_n, mask=o_n < n_waiting, other=-1)
            b_label = tl.load(p_asked + o_n, mask=o_n < n_waiting, other=0)
            b_room -= tl.histogram(b_label, BINS, mask=(b_n < 0) & (o_n < n_waiting))
            b_wait = (b_n >= 0).to(tl.int32)
            tl.debug_barrier()
            tl.store(p_waiting + n_left + tl.cumsum(b_wait, axis=0) - b_wait, b_n, mask=b_wait > 0)
            n_left += tl.sum(b_wait)
        tl.store(p_room + o_bin, b_room, mask=o_bin < C)
        tl.debug_barrier()
        n_waiting = n_left
        i_round += 1


@triton.jit
def overflow_kernel(
    x, centroids, labels, room, keys, asked, waiting, counts, x_strides, sizes, D: tl.constexpr, BD: tl.constexpr,
    BINS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: all further rounds of one head
    H, N, C = sizes
    high, low, norm = centroids
    i_row = tl.program_id(0).to(tl.int64)
    o_c, o_n = i_row * C, i_row * N
    p_x = of_head(x, x_strides, i_row // H, i_row % H)
    play_rounds(
        p_x, high + o_c * D, low + o_c * D, norm + o_c, labels + o_n, room + o_c, waiting + o_n, keys + o_n,
        asked + o_n, tl.load(counts + i_row), 1, x_strides[2], C, D, BD, BINS, BM, BC, BK, BN, PRECISION,
    )  # fmt: skip


class Waiting(NamedTuple):
    """Who waits in every head: keys [B, H, N] int64, asked clusters and positions [B, H, N] int32, and how many
    [rounds + 1, B * H] int32, after each round."""

    keys: Tensor
    asked: Tensor
    positions: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, x: Tensor, counts: Tensor) -> Waiting:
        """Lists without content for the vectors x [B, H, N, D]."""
        asked, positions = torch.empty(2, *x.shape[:3], dtype=torch.int32, device=x.device)
        return cls(torch.empty_like(asked, dtype=torch.int64), asked, positions, counts)

    @property
    def lists(self) -> tuple[Tensor, Tensor, Tensor]:
        return self[:3]


def rounds_of(vectors: int) -> int:
    """How many rounds the whole device plays."""
    waiting, rounds = cdiv(vectors, 10), 1
    while waiting > FEW:
        waiting, rounds = cdiv(waiting, 4), rounds + 1
    return rounds


def further_rounds(
    x: Tensor, centroids: Halves, labels: Tensor, room: Tensor, waiting: Waiting, tile: Tile | None = None
) -> None:
    """All rounds after the first, in place: those of the whole device, then those of one program a head."""
    (B, H, N, D), C, target = x.shape, room.shape[-1], target_of(x)
    BD, strides, rounds = power_of_two(D), x.stride()[:3], len(waiting.counts) - 1
    lists, counts, precision = waiting.lists, waiting.counts, fp32_precision(x)
    asks, plays = (choose(name, target, BD, x.element_size(), tile) for name in ("ask", "overflow"))
    parts = min(cdiv(N, asks.rows), cdiv(2 * PROGRAMS, max(1, B * H)))
    settle = choose("settle", target, power_of_two(cdiv(N, 10)), 4, tile)
    for i in range(1, rounds):
        launch(
            ask_kernel, (B * H * parts,), x, tuple(centroids), room, *lists, counts[i], strides, (H, N, C, parts), D,
            BD=BD, BM=asks.rows, BC=asks.cols, PRECISION=precision, tile=asks,
        )  # fmt: skip
        launch(
            settle_kernel, (B * H * C,), labels, room, room, room, room, room, *lists, counts[i], (N, C, B * H),
            BN=settle.cols, FIRST=False, tile=settle,
        )  # fmt: skip
    launch(
        overflow_kernel, (B * H,), x, tuple(centroids), labels, room, *lists, counts[rounds], strides, (H, N, C), D,
        BD=BD, BINS=power_of_two(C), BM=plays.rows, BC=plays.cols, BK=min(plays.cols, 32),
        BN=max(plays.rows, min(512, power_of_two(N))), PRECISION=precision, tile=plays,
    )  # fmt: skip


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

    Launches: two for each of `rounds_of` and two. Bytes: labels, distances and order once, keys of 8 bytes some 15
    times in the clusters that overflow (cache); x and the centroids again for the M vectors left over. Operations:
    4 M C D a round.
    """
    check_tensors("capped_rounds", x=x)
    B, H, N, _ = x.shape
    C = check_centroids("capped_rounds", x, centroids)
    check_given("capped_rounds", torch.int32, x, capacity=(capacity, (B, H)))
    labels, distances, order, offsets, capacity = (
        y.contiguous() for y in (labels, distances, order, offsets, capacity)
    )
    x, centroids = row_strided(x), halves(centroids.float().contiguous(), x.dtype)
    room = torch.empty(B, H, C, dtype=torch.int32, device=x.device)
    counts = torch.zeros(rounds_of(N) + 1, B * H, dtype=torch.int32, device=x.device)
    waiting = Waiting.empty(x, counts)
    settle = choose("settle", target_of(x), power_of_two(min(N, 4 * cdiv(N, C))), 4, tile)
    launch(
        settle_kernel, (B * H * C,), labels, distances, order, offsets, capacity, room, *waiting.lists, counts[0],
        (N, C, B * H), BN=settle.cols, FIRST=True, tile=settle,
    )  # fmt: skip
    further_rounds(x, centroids, labels, room, waiting, tile)
    return labels
