"""Nearest centroid of every vector: the distances and their minimum in one kernel, no N x C matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.rows import load_rows, of_head, row_places
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose

# Half of the squared distance of a full or absent cluster, and the most that any other has, NaN included.
FARTHEST = tl.constexpr(3.0e38)
# In half precision distances are compared with this share of |x|^2 on top, so that rounding makes none negative.
ABOVE = tl.constexpr(1.0 / 65536)


class Halves(NamedTuple):
    """What `nearest` reads of the centroids [R, C, D]: c = high + low in the dtype of the vectors, and |c|^2 / 2.

    In half precision a centroid is the sum of two, so that no cluster moves by rounding; in fp32 high is c itself, and
    low is not read.
    """

    high: Tensor
    low: Tensor
    norm: Tensor


@triton.jit
def finite(b_x):
    """Non-finite numbers count as zero in a clustering."""
    return tl.where(tl.abs(b_x) < float("inf"), b_x, 0.0)


@triton.jit
def halves_kernel(
    centroids, high, low, norm, ROWS, D: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, SPLIT: tl.constexpr
):
    # one program: BC centroids of any heads
    o_c = tl.program_id(0) * BC + tl.arange(0, BC)
    o_tile, m_tile = row_places(o_c.to(tl.int64), o_c < ROWS, D, D, BD)
    b_c = tl.load(centroids + o_tile, mask=m_tile, other=0.0)  # [BC, BD]
    tl.store(norm + o_c, 0.5 * tl.sum(b_c * b_c, axis=1), mask=o_c < ROWS)
    if SPLIT:
        b_high = b_c.to(high.dtype.element_ty)
        tl.store(high + o_tile, b_high, mask=m_tile)
        tl.store(low + o_tile, (b_c - b_high.to(tl.float32)).to(low.dtype.element_ty), mask=m_tile)


def halves(centroids: Tensor, dtype: torch.dtype) -> Halves:
    """The centroids [B, H, C, D] fp32 as `nearest` reads them beside vectors of a dtype: one launch."""
    D = centroids.shape[-1]
    rows, split = centroids.numel() // D, dtype != torch.float32
    norm = torch.empty(rows, dtype=torch.float32, device=centroids.device)
    high, low = (torch.empty_like(centroids, dtype=dtype) if split else centroids for _ in range(2))
    BD = power_of_two(D)
    tile = choose("halves", target_of(centroids), BD, 4)
    launch(
        halves_kernel, (cdiv(rows, tile.rows),), centroids, high, low, norm, rows, D,
        BD=BD, BC=tile.rows, SPLIT=split, tile=tile,
    )  # fmt: skip
    return Halves(high, low, norm)


@triton.jit
def row_min(b_distance, o_c, BC: tl.constexpr, PACKED: tl.constexpr):
    """The least distance of every row of [BM, BC] and its o_c = 0 .. BC - 1; of equal ones the lower.

    PACKED: both in one comparison, o_c in place of the last bits. No distance may be negative or infinite, and those
    that differ by less than BC units in their last place count as equal: far less than half precision keeps.
    """
    if PACKED:
        b_bits = (b_distance.to(tl.int32, bitcast=True) & (-BC)) | o_c[None, :]
        b_bits = tl.min(b_bits.to(tl.float32, bitcast=True), axis=1).to(tl.int32, bitcast=True)
        return (b_bits & (-BC)).to(tl.float32, bitcast=True), b_bits & (BC - 1)
    else:
        return tl.min(b_distance, axis=1, return_indices=True)


@triton.jit
def nearest(
    b_x, p_high, p_low, p_norm, p_room, C, D: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, ROOM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For vectors b_x [BM, BD]: the nearest cluster (with room), ties to the lower, and |x - c|^2."""
    o_c = tl.arange(0, BC)
    b_wide = b_x.to(tl.float32)
    b_square = 0.5 * tl.sum(b_wide * b_wide, axis=1)
    b_best = tl.full([b_x.shape[0]], float("inf"), dtype=tl.float32)
    b_label = tl.zeros([b_x.shape[0]], dtype=tl.int32)
    for i_c in range(0, C, BC):
        m_c = i_c + o_c < C
        o_tile, m_tile = row_places(i_c + o_c, m_c, D, D, BD)
        b_high = tl.load(p_high + o_tile, mask=m_tile, other=0.0)  # [BC, BD]
        b_dot = tl.dot(b_x, tl.trans(b_high), input_precision=PRECISION)
        if b_x.dtype != tl.float32:
            b_low = tl.load(p_low + o_tile, mask=m_tile, other=0.0)
            b_dot = tl.dot(b_x, tl.trans(b_low), b_dot)
        b_norm = tl.load(p_norm + i_c + o_c, mask=m_c, other=FARTHEST)
        b_half = b_norm[None, :] - b_dot  # [BM, BC]
        if b_x.dtype != tl.float32:
            b_half += (b_square + ABOVE * b_square)[:, None]
        if ROOM or b_x.dtype == tl.float32:  # any distance is less than that of a cluster that is not there
            b_half = tl.where(tl.abs(b_half) < 0.5 * FARTHEST, b_half, 0.5 * FARTHEST)
            if ROOM:
                m_c = m_c & (tl.load(p_room + i_c + o_c, mask=m_c, other=0) > 0)
            b_half = tl.where(m_c[None, :], b_half, FARTHEST)
        b_min, b_arg = row_min(b_half, o_c, BC, b_x.dtype != tl.float32)
        b_label = tl.where(b_min < b_best, i_c + b_arg, b_label)
        b_best = tl.minimum(b_best, b_min)
    if b_x.dtype != tl.float32:
        b_square = -ABOVE * b_square
    b_best = 2.0 * (b_best + b_square)
    return tl.minimum(b_label, C - 1), tl.where(b_best < FARTHEST, b_best, FARTHEST)


@triton.jit
def assign_kernel(
    x, high, low, norm, valid, labels, distances, x_strides, sizes, D: tl.constexpr,
    BD: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM vectors of one head
    H, N, C, TILES = sizes
    i_row, i_tile = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES
    i_b, i_h = i_row // H, i_row % H
    o_n = i_tile * BM + tl.arange(0, BM)
    m_n = o_n < N
    b_x = finite(load_rows(of_head(x, x_strides, i_b, i_h), o_n.to(tl.int64), m_n, x_strides[2], D, BD))
    p_high, p_low, p_norm = high + i_row * C * D, low + i_row * C * D, norm + i_row * C
    b_label, b_best = nearest(b_x, p_high, p_low, p_norm, norm, C, D, BD, BC, False, PRECISION)
    if MASKED:
        m_valid = tl.load(valid + i_b * N + o_n, mask=m_n, other=0) != 0
        b_label = tl.where(m_valid, b_label, -1)
        b_best = tl.where(m_valid, b_best, float("-inf"))
    tl.store(labels + i_row * N + o_n, b_label.to(tl.int64), mask=m_n)
    tl.store(distances + i_row * N + o_n, b_best, mask=m_n)


def check_centroids(operation: str, x: Tensor, centroids: Tensor) -> int:
    """C, of centroids [B, H, C, D] that fit the vectors x [B, H, N, D]; else raise."""
    (B, H, _, D), shape = x.shape, tuple(centroids.shape)
    if len(shape) != 4 or shape[2] == 0 or shape != (B, H, shape[2], D):
        raise ValueError(
            f"{operation}: centroids have shape {shape}; [{B}, {H}, C, {D}] with C of 1 or more is needed for x "
            f"{tuple(x.shape)}"
        )
    return shape[2]


def assign(
    x: Tensor, centroids: Tensor, valid: Tensor | None = None, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """Label every vector with its nearest centroid.

    labels[n] = argmin_j |x_n - c_j|^2, ties to the lower index; non-finite numbers of x count as zero.

    Parameters
    ----------
    x : [B, H, N, D] fp16, bf16 or fp32, any strides.
    centroids : [B, H, C, D] fp32.
    valid : [B, N] bool, False for padding, which gets label -1 and distance -inf.

    Returns
    -------
    labels [B, H, N] int64, squared distances [B, H, N] fp32.

    Launches: 2. Bytes: x once, centroids once for every tile of x (L2), 12 B H N written.
    Operations: 2 B H N C D (4 in half precision, where a centroid is the sum of two halves).
    """
    check_tensors("assign", x=x)
    B, H, N, D = x.shape
    C = check_centroids("assign", x, centroids)
    check_given("assign", torch.bool, x, valid=(valid, (B, N)))
    x, centroids = row_strided(x), centroids.float().contiguous()
    BD = power_of_two(D)
    tile = choose("assign", target_of(x), BD, x.element_size(), tile)
    tiles = cdiv(N, tile.rows)
    labels = torch.empty(B, H, N, dtype=torch.int64, device=x.device)
    distances = torch.empty(B, H, N, dtype=torch.float32, device=x.device)
    launch(
        assign_kernel, (B * H * tiles,),
        x, *halves(centroids, x.dtype), x if valid is None else valid.contiguous(), labels, distances,
        x.stride()[:3], (H, N, C, tiles), D,
        BD=BD, BM=tile.rows, BC=tile.cols, MASKED=valid is not None,
        PRECISION=fp32_precision(x), tile=tile,
    )  # fmt: skip
    return labels, distances
