"""Move every centroid to the mean of its members, and restart the empty ones at the farthest vectors."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span
from ..common.rows import load_row, load_rows, of_head
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .assign import finite


@triton.jit
def mean_of_members(
    p_x, p_order, i_start, i_end, stride_xn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, RAW: tl.constexpr,
):  # fmt: skip
    """The mean [BD] of the rows that stand from i_start to i_end in the order."""
    b_sum = tl.zeros([BM, BD], dtype=tl.float32)
    o_m = tl.arange(0, BM)
    b_n = tl.load(p_order + i_start + o_m, mask=i_start + o_m < i_end, other=0)
    for i in range(i_start, i_end, BM):
        b_next = tl.load(
            p_order + i + BM + o_m, mask=i + BM + o_m < i_end, other=0
        )  # long before it is needed
        b_x = load_rows(p_x, b_n, i + o_m < i_end, stride_xn, D, BD)
        if not RAW:
            b_x = finite(b_x)
        b_sum += b_x.to(tl.float32)
        b_n = b_next
    return tl.sum(b_sum, axis=0) / tl.maximum(i_end - i_start, 1).to(tl.float32)


@triton.jit
def cluster_means_kernel(
    x, order, offsets, means, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, RAW: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of one head
    H, N, C = sizes
    i_row, i_c = (tl.program_id(0) // C).to(tl.int64), tl.program_id(0) % C
    i_b, i_h = i_row // H, i_row % H
    i_start, i_end = cluster_span(offsets + i_row * (C + 1), i_c)
    p_x = of_head(x, x_strides, i_b, i_h)
    b_mean = mean_of_members(p_x, order + i_row * N, i_start, i_end, x_strides[2], D, BD, BM, RAW)
    o_d = tl.arange(0, BD)
    tl.store(means + (i_row * C + i_c) * D + o_d, b_mean, mask=o_d < D)


@triton.jit
def restart_row(
    p_x, p_label, p_distance, p_count, p_centroid, stride_xn,
    N, C, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Move the e-th empty cluster of one head to its e-th farthest vector."""
    o_n, o_d = tl.arange(0, BN), tl.arange(0, BD)
    for i_c in range(0, C):
        if tl.load(p_count + i_c) == 0:
            tl.debug_barrier()
            i_far = tl.zeros([], dtype=tl.int64)
            b_far = tl.full([], float("-inf"), dtype=tl.float32)
            for i in range(0, N, BN):
                b_distance = tl.load(p_distance + i + o_n, mask=i + o_n < N, other=float("-inf"))
                b_max, i_max = tl.max(b_distance, axis=0, return_indices=True)
                i_far = tl.where(b_max > b_far, (i + i_max).to(tl.int64), i_far)
                b_far = tl.maximum(b_max, b_far)
            i_old = tl.load(p_label + i_far)
            if (b_far > float("-inf")) & (i_old >= 0):
                b_x = finite(load_row(p_x + i_far * stride_xn, D, BD)).to(tl.float32)
                b_old = load_row(p_centroid + i_old * D, D, BD)
                n_old = tl.load(p_count + i_old)
                b_old = (b_old * n_old.to(tl.float32) - b_x) / tl.maximum(n_old - 1, 1).to(tl.float32)
                tl.debug_barrier()
                tl.store(p_centroid + i_old * D + o_d, b_old, mask=o_d < D)
                tl.store(p_count + i_old, n_old - 1)
                tl.store(p_centroid + i_c * D + o_d, b_x, mask=o_d < D)
                tl.store(p_distance + i_far, float("-inf"))
            tl.debug_barrier()


@triton.jit
def restart_kernel(
    x, labels, distances, counts, centroids, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    # one program: one head
    H, N, C = sizes
    i_row = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BINS)
    b_count = tl.load(counts + i_row * C + o_c, mask=o_c < C, other=1)
    if tl.sum((b_count == 0).to(tl.int32)) > 0:
        p_x, p_centroid = of_head(x, x_strides, i_row // H, i_row % H), centroids + i_row * C * D
        p_label, p_distance, p_count = labels + i_row * N, distances + i_row * N, counts + i_row * C
        restart_row(p_x, p_label, p_distance, p_count, p_centroid, x_strides[2], N, C, D, BD, BN)


def cluster_means(
    x: Tensor, order: Tensor, offsets: Tensor, tile: Tile | None = None, raw: bool = False
) -> Tensor:
    """The mean of every cluster's members, summed in fp32 in ascending position; zero for an empty cluster.

    c_j = sum_{n in j} x_n / n_j, with x [B, H, N, D], order [B, H, N], offsets [B, H, C + 1]; returns
    [B, H, C, D] fp32. Numbers that are not finite count as zero, or with `raw` as what they are.

    Bytes: x once, 8 B H N of order, 4 B H C D written. Operations: B H N D.
    """
    check_tensors("cluster_means", x=x)
    B, H, N, D = x.shape
    C = offsets.shape[-1] - 1
    check_given("cluster_means", torch.int64, x, order=(order, (B, H, N)), offsets=(offsets, (B, H, C + 1)))
    x = row_strided(x)
    BD = power_of_two(D)
    tile = choose("centroids", target_of(x), BD, x.element_size(), tile)
    means = torch.empty(B, H, C, D, dtype=torch.float32, device=x.device)
    launch(
        cluster_means_kernel, (B * H * C,), x, order.contiguous(), offsets.contiguous(), means,
        x.stride()[:3], (H, N, C), D, BD=BD, BM=tile.rows, RAW=raw, tile=tile,
    )  # fmt: skip
    return means


def restart_empty(
    x: Tensor, labels: Tensor, distances: Tensor, counts: Tensor, centroids: Tensor, tile: Tile | None = None
) -> None:
    """Move the e-th empty cluster of a head to its e-th farthest vector, which leaves its old cluster.

    In place: centroids [B, H, C, D] fp32, counts [B, H, C] and distances [B, H, N] (spent). One program a
    head; a head without empty clusters only reads its counts.
    """
    B, H, N, D = x.shape
    C = counts.shape[-1]
    if N == 0:  # no vector to move to
        return
    x = row_strided(x)
    written = [y.contiguous() for y in (distances, counts, centroids)]
    BD = power_of_two(D)
    tile = choose("centroids", target_of(x), BD, x.element_size(), tile)
    launch(
        restart_kernel, (B * H,), x, labels.contiguous(), *written,
        x.stride()[:3], (H, N, C), D, BD=BD, BN=tile.cols, BINS=power_of_two(C), tile=tile,
    )  # fmt: skip
    for given, new in zip((distances, counts, centroids), written, strict=True):
        if new is not given:
            given.copy_(new)
