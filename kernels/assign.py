"""Nearest centroid of every vector: the distances and their minimum in one kernel, no N x C matrix."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, check_tensors, fp32_precision, launch, power_of_two, row_strided, target_of
from .registry import Problem, register
from .tiles import Tile, choose

# A full or absent cluster is infinitely far; any other distance, NaN included, is at most this.
FARTHEST = tl.constexpr(3.0e38)


@triton.jit
def finite(b_x):
    """Non-finite numbers count as zero in a clustering."""
    return tl.where(tl.abs(b_x) < float("inf"), b_x, 0.0)


@triton.jit
def nearest(
    b_x, p_centroid, p_room, C, D: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, ROOM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For vectors b_x [BM, BD]: the nearest cluster (with room), ties to the lower, and |c|^2 - 2 x.c."""
    o_d, o_c = tl.arange(0, BD), tl.arange(0, BC)
    b_best = tl.full([b_x.shape[0]], float("inf"), dtype=tl.float32)
    b_label = tl.zeros([b_x.shape[0]], dtype=tl.int32)
    for i_c in range(0, C, BC):
        m_c = i_c + o_c < C
        # [BC, BD] fp32 centroids; in half precision as a sum of two, so that no cluster moves by rounding
        b_c = tl.load(
            p_centroid + (i_c + o_c)[:, None] * D + o_d[None, :],
            mask=m_c[:, None] & (o_d[None, :] < D),
            other=0.0,
        )
        b_high = b_c.to(b_x.dtype)
        b_dot = tl.dot(b_x, tl.trans(b_high), input_precision=PRECISION)
        if b_x.dtype != tl.float32:
            b_low = (b_c - b_high.to(tl.float32)).to(b_x.dtype)
            b_dot = tl.dot(b_x, tl.trans(b_low), b_dot)
        b_distance = tl.sum(b_c * b_c, axis=1)[None, :] - 2.0 * b_dot  # [BM, BC]
        b_distance = tl.where(tl.abs(b_distance) < FARTHEST, b_distance, FARTHEST)
        if ROOM:
            m_c = m_c & (tl.load(p_room + i_c + o_c, mask=m_c, other=0) > 0)
        b_distance = tl.where(m_c[None, :], b_distance, float("inf"))
        b_min, b_arg = tl.min(b_distance, axis=1, return_indices=True)
        b_label = tl.where(b_min < b_best, i_c + b_arg, b_label)
        b_best = tl.minimum(b_best, b_min)
    return b_label, b_best


@triton.jit
def _assign_kernel(
    x,
    centroids,
    valid,
    labels,
    distances,
    stride_xb,
    stride_xh,
    stride_xn,
    H,
    N,
    C,
    D: tl.constexpr,
    TILES,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    i_row, i_tile = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES
    i_b, i_h = i_row // H, i_row % H
    o_n, o_d = i_tile * BM + tl.arange(0, BM), tl.arange(0, BD)
    p_x = x + i_b * stride_xb + i_h * stride_xh + o_n.to(tl.int64)[:, None] * stride_xn + o_d[None, :]
    # [BM, BD]
    b_x = finite(tl.load(p_x, mask=(o_n[:, None] < N) & (o_d[None, :] < D), other=0.0))
    b_label, b_best = nearest(b_x, centroids + i_row * C * D, centroids, C, D, BD, BC, False, PRECISION)
    b_wide = b_x.to(tl.float32)
    b_best += tl.sum(b_wide * b_wide, axis=1)
    if MASKED:
        m_valid = tl.load(valid + i_b * N + o_n, mask=o_n < N, other=0) != 0
        b_label = tl.where(m_valid, b_label, -1)
        b_best = tl.where(m_valid, b_best, float("-inf"))
    tl.store(labels + i_row * N + o_n, b_label.to(tl.int64), mask=o_n < N)
    tl.store(distances + i_row * N + o_n, b_best, mask=o_n < N)


def assign(
    x: Tensor, centroids: Tensor, valid: Tensor | None = None, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """Label every vector with its nearest centroid.

    labels[n] = argmin_j |x_n - c_j|^2, ties to the lower index; non-finite numbers of x count as zero.

    Parameters
    ----------
    x : [B, H, N, D] fp16, bf16 or fp32; the last dimension contiguous, other strides free.
    centroids : [B, H, C, D] fp32.
    valid : [B, N] bool, False for padding, which gets label -1 and distance -inf.

    Returns
    -------
    labels [B, H, N] int64, squared distances [B, H, N] fp32.

    Bytes: x once, centroids once for every tile of x (L2), 12 B H N written.
    Operations: 2 B H N C D (4 in half precision, where a centroid is the sum of two halves).
    """
    check_tensors("assign", x=x)
    B, H, N, D = x.shape
    C = centroids.shape[2]
    x, centroids = row_strided(x), centroids.float().contiguous()
    BD = power_of_two(D)
    tile = choose("assign", target_of(x), BD, x.element_size(), tile)
    tiles = cdiv(N, tile.rows)
    labels = torch.empty(B, H, N, dtype=torch.int64, device=x.device)
    distances = torch.empty(B, H, N, dtype=torch.float32, device=x.device)
    launch(
        _assign_kernel,
        (B * H * tiles,),
        x,
        centroids,
        x if valid is None else valid.contiguous(),
        labels,
        distances,
        *x.stride()[:3],
        H,
        N,
        C,
        D,
        tiles,
        BD=BD,
        BM=tile.rows,
        BC=tile.cols,
        MASKED=valid is not None,
        PRECISION=fp32_precision(x),
        tile=tile,
    )
    return labels, distances


def _example(p: Problem) -> None:
    x = p.empty(p.batch, p.kv_heads, p.keys, p.head)
    assign(x, p.empty(p.batch, p.kv_heads, p.clusters, p.head, dtype=torch.float32))


def _cost(p: Problem) -> tuple[float, float]:
    vectors = p.batch * p.kv_heads * p.keys
    moved = vectors * (p.head * p.width + 12) + 4 * p.batch * p.kv_heads * p.clusters * p.head
    return moved, (2 if p.width == 4 else 4) * vectors * p.clusters * p.head


register("assign", _example, _cost)
