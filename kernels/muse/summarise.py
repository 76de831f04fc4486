"""Summaries of every key cluster from every query centroid: log mass, tilted means of keys and values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, member_rows
from ..common.online import softmax_lse, softmax_mean, softmax_weights
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose

# The members of a cluster, on average, below which a tile of fewer of them is faster.
SMALL = 128


@triton.jit
def muse_summarise_kernel(
    k, v, centroids, k_members, mass, mean_k, mean_v, scale, k_strides, v_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC query centroids (of all heads of the group) and one key cluster
    HK, NK, CK, ROWS, TILES = sizes
    k_order, k_offsets = k_members
    i_tile = tl.program_id(0) % TILES
    i_j = (tl.program_id(0) // TILES) % CK
    i_head = (tl.program_id(0) // TILES // CK).to(tl.int64)
    p_k = of_head(k, k_strides, i_head // HK, i_head % HK)
    p_v = of_head(v, v_strides, i_head // HK, i_head % HK)
    o_c = i_tile * BC + tl.arange(0, BC)
    m_c, o_row = o_c < ROWS, i_head * ROWS + o_c
    b_p = load_rows(centroids, o_row, m_c, D, D, BD)  # [BC, BD]
    i_start, i_end = cluster_span(k_offsets + i_head * (CK + 1), i_j)
    b_max = tl.full([BC], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BC], dtype=tl.float32)
    b_mean_k = tl.zeros([BC, BD], dtype=tl.float32)
    b_mean_v = tl.zeros([BC, BDV], dtype=tl.float32)
    for i in range(i_start, i_end, BM):
        b_n, m_m = member_rows(k_order + i_head * NK, i, i_end, BM)
        b_k = load_rows(p_k, b_n, m_m, k_strides[2], D, BD)  # [BM, BD]
        b_v = load_rows(p_v, b_n, m_m, v_strides[2], DV, BDV)  # [BM, BDV]
        b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale
        b_s = tl.where(m_m[None, :], b_s, float("-inf"))  # [BC, BM]
        b_w, b_keep, b_max, b_sum = softmax_weights(b_s, b_max, b_sum)
        b_w = b_w.to(b_k.dtype)
        b_mean_k = tl.dot(b_w, b_k, b_mean_k * b_keep[:, None], input_precision=PRECISION)
        b_mean_v = tl.dot(b_w, b_v, b_mean_v * b_keep[:, None], input_precision=PRECISION)
    o_out = o_row * CK + i_j
    # an empty cluster: mass -inf, means 0
    tl.store(mass + o_out, softmax_lse(b_max, b_sum), mask=m_c)
    store_rows(mean_k, o_out, m_c, D, softmax_mean(b_mean_k, b_sum), D, BD)
    store_rows(mean_v, o_out, m_c, DV, softmax_mean(b_mean_v, b_sum), DV, BDV)


def summarise(
    centroids: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    offsets: Tensor,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
    into: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Summarise every key cluster j around every query centroid p_i.

    a_ij = log sum_{n in j} exp(s p_i.k_n);  w_n = exp(s p_i.k_n - a_ij);  k~_ij = sum w_n k_n;
    v~_ij = sum w_n v_n.  An empty cluster has a = -inf and zero means.

    Parameters
    ----------
    centroids : [B, Hq, Cq, D] in the dtype of k: the points p_i around which everything is expanded.
    k : [B, Hk, Nk, D], v : [B, Hk, Nk, Dv]; any strides.
    order : [B, Hk, Nk], offsets : [B, Hk, Ck + 1] of the key clusters.
    precision : of fp32 products, "ieee" or "tf32x3"; None takes what is accurate and fast there.

    into : what is returned, contiguous, to be written to; None makes it.

    Returns
    -------
    mass [B, Hq, Cq, Ck] fp32, tilted means of the keys [B, Hq, Cq, Ck, D] and values [B, Hq, Cq, Ck, Dv] in
    the dtype of k.

    Bytes: K, V and order once (again from L2 for every further tile of the G Cq centroids of a group),
    summaries B Hq Cq Ck (D + Dv) elements + 4 each. Operations: B Hq Nk Cq (4 D + 2 Dv).
    """
    check_tensors("summarise", centroids=centroids, k=k, v=v)
    B, Hk, Nk, D = k.shape
    Dv, Hq, Cq, Ck = v.shape[-1], centroids.shape[1], centroids.shape[2], offsets.shape[-1] - 1
    k, v, centroids = row_strided(k), row_strided(v), centroids.contiguous()
    BD, BDV, rows = power_of_two(D), power_of_two(Dv), Hq // Hk * Cq
    tile = (
        _fitting(choose("summarise", target_of(k), max(BD, BDV), k.element_size()), rows, Nk, Ck)
        if tile is None
        else tile
    )
    tiles = cdiv(rows, tile.rows)
    if into is None:
        mass = torch.empty(B, Hq, Cq, Ck, dtype=torch.float32, device=k.device)
        into = mass, *(torch.empty(*mass.shape, n, dtype=k.dtype, device=k.device) for n in (D, Dv))
    if not all(x.is_contiguous() for x in into):
        raise ValueError(
            f"summarise: into has strides {[x.stride() for x in into]}; contiguous tensors are needed"
        )
    mass, mean_k, mean_v = into
    launch(
        muse_summarise_kernel, (B * Hk * Ck * tiles,),
        k, v, centroids, (order.contiguous(), offsets.contiguous()), mass, mean_k, mean_v, scale,
        k.stride()[:3], v.stride()[:3], (Hk, Nk, Ck, rows, tiles), D, Dv, BD=BD, BDV=BDV, BC=tile.rows,
        BM=tile.cols, PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    return mass, mean_k, mean_v


def _fitting(tile: Tile, rows: int, keys: int, clusters: int) -> Tile:
    """A tile for few members: no larger than they and the centroids are, so that more programs find room. Tiles of 64
    keys and fewer are small enough."""
    if keys >= SMALL * clusters or tile.cols <= 64:
        return tile
    fewer = min(tile.rows, power_of_two(rows))
    return Tile(fewer, min(tile.cols, 32), max(1, tile.warps * fewer // tile.rows), min(tile.stages, 2))
