"""How the members of every cluster lie around its centroid: a dipole is kept along the leading directions of that."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.derivatives import KernelFunction
from ..common.expansion import displacement
from ..common.launch import launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, find_tile, member_rows, member_tiles
from ..common.rows import load_row, load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def covariance_kernel(
    x, centroids, order, offsets, squares, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC columns of one cluster's matrix
    H, N, C, TILES = sizes
    i_row, i_col = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES * BC
    i_head, o_d = i_row // C, tl.arange(0, BD)
    i_start, i_end = cluster_span(offsets + i_head * (C + 1), i_row % C)
    p_x, p_centroid = of_head(x, x_strides, i_head // H, i_head % H), centroids + i_row * D
    b_p, b_pc = load_row(p_centroid, D, BD), load_row(p_centroid, D, BC, i_col)
    b_squares = tl.zeros([BD, BC], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        b_n, m_m = member_rows(order + i_head * N, i, i_end, BM)
        b_d = displacement(load_rows(p_x, b_n, m_m, x_strides[2], D, BD), b_p)
        b_d = tl.where(m_m[:, None], b_d, 0.0).to(b_d.dtype)
        b_c = displacement(load_rows(p_x, b_n, m_m, x_strides[2], D, BC, i_col), b_pc)
        b_squares = tl.dot(tl.trans(b_d), b_c, b_squares, input_precision=PRECISION)
    store_rows(squares + i_row * D * D, o_d, o_d < D, D, b_squares, D, BC, i_col)


@triton.jit
def covariance_grad_kernel(
    x, centroids, order, offsets, slope, dx, x_strides, sizes,
    D: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, BINS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC columns of the gradients of BM members of one cluster
    H, N, C, TILES = sizes
    i_head, i_col = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(1) * BC
    i_c, i_start, i_end = find_tile(offsets + i_head * (C + 1), tl.program_id(0) % TILES, C, BM, BINS)
    i_row, o_d = i_head * C + i_c, tl.arange(0, BD)
    b_n, m_m = member_rows(order + i_head * N, i_start, i_end, BM)
    b_x = load_rows(of_head(x, x_strides, i_head // H, i_head % H), b_n, m_m, x_strides[2], D, BD)
    b_d = displacement(b_x, load_row(centroids + i_row * D, D, BD)).to(tl.float32)
    b_slope = load_rows(slope + i_row * D * D, o_d, o_d < D, D, D, BC, i_col)  # [BD, BC]
    b_dx = tl.dot(b_d, b_slope, input_precision=PRECISION)
    store_rows(dx + i_head * N * D, b_n, m_m, D, b_dx, D, BC, i_col)


def covariances(
    x: Tensor, centroids: Tensor, order: Tensor, offsets: Tensor, tile: Tile | None = None
) -> Tensor:
    """The sum of the squares of every cluster's displacements; differentiable in x.

    S_i = sum_{n in i} d_n d_n^T with d_n = x_n - p_i. The centroid p_i is a constant of the gradient
    dx_n = (dS_i + dS_i^T) d_n: displacements add up to zero, so moving it changes nothing at first order.

    Parameters
    ----------
    x : [B, H, N, D], any strides. centroids : [B, H, C, D], the means of the clusters.
    order, offsets : [B, H, N] and [B, H, C + 1], as in `Clusters`; no member of a cluster, no gradient.

    Returns
    -------
    [B, H, C, D, D] fp32, zero for an empty cluster.

    Bytes: x and order once for every 64 columns, 4 B H C D D written. Operations: 2 B H N D D.
    """
    check_tensors("covariances", x=x)
    (B, H, N), C = x.shape[:3], centroids.shape[2]
    check_given("covariances", torch.int64, x, order=(order, (B, H, N)), offsets=(offsets, (B, H, C + 1)))
    kept = (y.detach().contiguous() for y in (centroids, order, offsets))
    return _Covariances.apply(row_strided(x), *kept, tile)


class _Covariances(KernelFunction):
    operation = "covariances"

    @staticmethod
    def forward(ctx, x, centroids, order, offsets, tile):
        (B, H, N, D), C = x.shape, centroids.shape[2]
        BD = power_of_two(D)
        tile = choose("covariance", target_of(x), BD, x.element_size(), tile)
        tiles = cdiv(D, tile.cols)
        squares = torch.empty(B, H, C, D, D, dtype=torch.float32, device=x.device)
        launch(
            covariance_kernel, (B * H * C * tiles,), x, centroids, order, offsets, squares, x.stride()[:3],
            (H, N, C, tiles), D, BD=BD, BC=tile.cols, BM=tile.rows, PRECISION="ieee", tile=tile,
        )  # fmt: skip
        ctx.save_for_backward(x, centroids, order, offsets)
        return squares

    @staticmethod
    def backward(ctx, upstream):
        x, centroids, order, offsets = ctx.saved_tensors
        (B, H, N, D), C = x.shape, centroids.shape[2]
        slope, dx = (
            (upstream + upstream.mT).contiguous(),
            torch.zeros(x.shape, dtype=x.dtype, device=x.device),
        )
        BD = power_of_two(D)
        tile = choose("covariance_grad", target_of(x), BD, x.element_size(), None)
        tiles, columns = member_tiles(N, C, tile.rows), cdiv(D, tile.cols)
        launch(
            covariance_grad_kernel, (B * H * tiles, columns), x, centroids, order, offsets, slope, dx,
            x.stride()[:3], (H, N, C, tiles), D, BD=BD, BC=tile.cols, BM=tile.rows,
            BINS=power_of_two(C), PRECISION="ieee" if x.dtype == torch.float32 else "tf32", tile=tile,
        )  # fmt: skip
        return dx, None, None, None, None
