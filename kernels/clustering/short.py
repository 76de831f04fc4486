"""k-means of short rows: one program does all of one row, from its seeds to the sorted members, in a single launch."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from . import lloyd
from .assign import finite
from .capped import play_rounds
from .centroids import restart_row
from .lloyd import nearest_of_all, split
from .settle import make_key

# Vectors of a row at most: those who overflow are ranked each against each.
LONGEST = 2048


@triton.jit
def load_tile_of(p_x, i, N, stride, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr):
    """The BM vectors from place i on, and which of them there are."""
    o_n = i + tl.arange(0, BM)
    return finite(load_rows(p_x, o_n.to(tl.int64), o_n < N, stride, D, BD)), o_n, o_n < N


@triton.jit
def short_kernel(
    x, centroids, labels, counts, order, offsets, means, halves, distances, lists, room, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: one head
    H, N, C, ITERATIONS, CAPACITY = sizes
    i_row = tl.program_id(0).to(tl.int64)
    o_bin, o_all = tl.arange(0, BINS), tl.arange(0, BN)
    m_c, m_all, o_c = o_bin < C, o_all < N, i_row * C
    p_x = of_head(x, x_strides, i_row // H, i_row % H)
    p_label, p_distance, p_count = labels + i_row * N, distances + i_row * N, counts + o_c
    p_mean, rows = means + o_c * D, o_bin.to(tl.int64)
    b_c = load_rows(centroids + o_c * D, rows, m_c, D, D, BD)  # [BINS, BD]
    b_sum = tl.zeros([BINS, BD], dtype=tl.float32)
    b_count = tl.zeros([BINS], dtype=tl.int32)
    for i_pass in range(0, ITERATIONS + 1):
        b_high, b_low, b_norm = split(b_c, m_c, x.dtype.element_ty)
        b_sum = tl.zeros([BINS, BD], dtype=tl.float32)
        b_count = tl.zeros([BINS], dtype=tl.int32)
        for i in range(0, N, BM):
            b_x, o_n, m_n = load_tile_of(p_x, i, N, x_strides[2], D, BD, BM)
            b_label, b_best = nearest_of_all(b_x, b_high, b_low, b_norm, BINS, PRECISION)
            b_label = tl.where(m_n, tl.minimum(b_label, C - 1), -1)  # where all distances overflow
            tl.store(p_label + o_n, b_label.to(tl.int64), mask=m_n)
            tl.store(p_distance + o_n, b_best, mask=m_n)
            m_member = o_bin[:, None] == b_label[None, :]  # [BINS, BM]
            b_sum = tl.dot(m_member.to(b_x.dtype), b_x, b_sum, input_precision=PRECISION)
            b_count += tl.histogram(tl.maximum(b_label, 0), BINS, mask=m_n)
        if i_pass < ITERATIONS:
            b_c = b_sum / tl.maximum(b_count, 1).to(tl.float32)[:, None]
            if tl.sum(((b_count == 0) & m_c).to(tl.int32)) > 0:
                store_rows(p_mean, rows, m_c, D, b_c, D, BD)
                tl.store(p_count + o_bin, b_count.to(tl.int64), mask=m_c)
                tl.debug_barrier()
                restart_row(p_x, p_label, p_distance, p_count, p_mean, x_strides[2], N, C, D, BD, BM)
                tl.debug_barrier()
                b_c = load_rows(p_mean, rows, m_c, D, D, BD)
                tl.debug_barrier()
    if CAPPED:  # noqa: SIM102  a constant, and a value of the device
        if tl.max(b_count) > CAPACITY:
            high, low, norm = halves
            keys, asked, waiting = lists
            p_key, p_asked, p_waiting = keys + i_row * N, asked + i_row * N, waiting + i_row * N
            b_high, b_low, b_norm = split(b_c, m_c, x.dtype.element_ty)
            store_rows(high + o_c * D, rows, m_c, D, b_high, D, BD)
            store_rows(low + o_c * D, rows, m_c, D, b_low, D, BD)
            tl.store(norm + o_c + o_bin, 0.5 * b_norm, mask=m_c)
            b_room = tl.where(b_count > CAPACITY, CAPACITY, CAPACITY - b_count)  # for those of the list
            tl.store(room + o_c + o_bin, b_room, mask=m_c)
            tl.store(p_count + o_bin, b_count.to(tl.int64), mask=m_c)
            tl.debug_barrier()
            # who asks a cluster that has not room for all
            b_label = tl.load(p_label + o_all, mask=m_all, other=0).to(tl.int32)
            b_wait = (m_all & (tl.load(p_count + b_label) > CAPACITY)).to(tl.int32)
            o_place = tl.cumsum(b_wait, axis=0) - b_wait
            b_key = make_key(tl.load(p_distance + o_all, mask=m_all, other=0.0), o_all)
            tl.store(p_key + o_place, b_key, mask=b_wait > 0)
            tl.store(p_asked + o_place, b_label, mask=b_wait > 0)
            tl.store(p_waiting + o_place, o_all, mask=b_wait > 0)
            n_waiting = tl.sum(b_wait)
            tl.debug_barrier()
            play_rounds(
                p_x, high + o_c * D, low + o_c * D, norm + o_c, p_label, room + o_c, p_waiting, p_key, p_asked,
                n_waiting, 0, x_strides[2], C, D, BD, BINS, BM, BINS, BK, BN, PRECISION,
            )  # fmt: skip
            tl.debug_barrier()
            b_sum = tl.zeros([BINS, BD], dtype=tl.float32)
            b_count = tl.zeros([BINS], dtype=tl.int32)
            for i in range(0, N, BM):
                b_x, o_n, m_n = load_tile_of(p_x, i, N, x_strides[2], D, BD, BM)
                m_member = o_bin[:, None] == tl.load(p_label + o_n, mask=m_n, other=-1).to(tl.int32)[None, :]
                b_sum = tl.dot(m_member.to(b_x.dtype), b_x, b_sum, input_precision=PRECISION)
                b_count += tl.sum(m_member.to(tl.int32), axis=1)
    tl.debug_barrier()
    store_rows(p_mean, rows, m_c, D, b_sum / tl.maximum(b_count, 1).to(tl.float32)[:, None], D, BD)
    tl.store(p_count + o_bin, b_count.to(tl.int64), mask=m_c)
    b_start = tl.cumsum(b_count, axis=0) - b_count
    tl.store(offsets + i_row * (C + 1) + o_bin, b_start.to(tl.int64), mask=o_bin <= C)
    tl.store(offsets + i_row * (C + 1) + C, tl.zeros([], tl.int64) + N)
    # Label and place as one number: in its order they are sorted, and no two are equal.
    b_label = tl.load(p_label + o_all, mask=m_all, other=BINS).to(tl.int32)
    b_sorted = tl.sort(b_label * BN + o_all)
    tl.store(order + i_row * N + o_all, (b_sorted & (BN - 1)).to(tl.int64), mask=m_all)


def fits(x: Tensor, clusters: int) -> bool:
    """Whether rows of x [B, H, N, D] are short enough for one program each, and their centroids for its registers."""
    return x.shape[2] <= LONGEST and lloyd.fits(x, clusters)


def short_kmeans(
    x: Tensor, centroids: Tensor, iterations: int = 1, cap: float | None = None, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`kmeans` without padding, where `fits`: the same labels but for vectors that lie equally far from two centroids,
    up to rounding.

    Launches: 1. Bytes: x for every pass and once or twice at the end, mostly from L2, and some 40 B H N.
    Operations: (iterations + 1) 6 B H N C D.
    """
    B, H, N, D = x.shape
    C, device = centroids.shape[2], x.device
    x, centroids = row_strided(x), centroids.float().contiguous()
    BD, BINS = power_of_two(D), power_of_two(C)
    tile = choose("short", target_of(x), BD, x.element_size(), tile)
    labels, order, keys = torch.empty(3, B, H, N, dtype=torch.int64, device=device)
    counts, offsets = (torch.empty(B, H, n, dtype=torch.int64, device=device) for n in (C, C + 1))
    means = torch.empty(B, H, C, D, dtype=torch.float32, device=device)
    high, low = torch.empty(2, B, H, C, D, dtype=x.dtype, device=device)
    norm = torch.empty(B, H, C, dtype=torch.float32, device=device)
    asked, waiting = torch.empty(2, B, H, N, dtype=torch.int32, device=device)
    distances = torch.empty(B, H, N, dtype=torch.float32, device=device)
    capacity = N if cap is None else math.ceil(cap * N / C)
    launch(
        short_kernel, (B * H,), x, centroids, labels, counts, order, offsets, means, (high, low, norm), distances,
        (keys, asked, waiting), torch.empty_like(norm, dtype=torch.int32), x.stride()[:3],
        (H, N, C, iterations, capacity), D, BD=BD, BINS=BINS, BM=tile.rows, BK=tile.cols, BN=power_of_two(N),
        CAPPED=cap is not None, PRECISION=fp32_precision(x), tile=tile,
    )  # fmt: skip
    return labels, means, counts, order, offsets
