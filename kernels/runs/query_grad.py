"""Backward along the queries: a tile of queries meets what it saw, and receives its share of its clusters' means."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..common.expansion import displacement
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_empty
from ..common.online import load_lse
from ..common.rows import load_row, load_rows, load_tile, of_head, store_rows
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, tile_at, tile_in


@triton.jit
def runs_query_grad_kernel(
    q, k, v, dout, centroids, mass, mean_k, mean_v, d_centroids, lse, delta, dq, scale, q_strides, k_strides,
    v_strides, dout_strides, dq_strides, tree, sizes, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr,
    BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
    HQ, G, TILES = sizes
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_b, i_h = i_head // HQ, i_head % HQ
    i_start, i_end = tile_at(tl.program_id(0) % TILES, BLOCK, BM)
    o_n, b_m = tl.arange(0, BN), i_start + tl.arange(0, BM)
    m_m, o_row = b_m < i_end, b_m.to(tl.int64)
    b_q = load_rows(of_head(q, q_strides, i_b, i_h), o_row, m_m, q_strides[2], D, BD)
    b_do = load_rows(of_head(dout, dout_strides, i_b, i_h), o_row, m_m, dout_strides[2], DV, BDV)
    b_lse = load_lse(lse + i_head * NQ, b_m, m_m)
    b_delta = tl.load(delta + i_head * NQ + b_m, mask=m_m, other=0.0)
    b_dq = tl.zeros([BM, BD], dtype=tl.float32)
    if CAUSAL:
        p_k, p_v = of_head(k, k_strides, i_b, i_h // G), of_head(v, v_strides, i_b, i_h // G)
        for i in range(i_end - BLOCK, tl.minimum(i_start + BM, i_end), BN):
            i_key, m_n = tl.cast(i, tl.int64), i + o_n < i_end
            b_k = load_tile(p_k + i_key * k_strides[2], m_n, k_strides[2], D, BN, BD)
            b_v = load_tile(p_v + i_key * v_strides[2], m_n, v_strides[2], DV, BN, BDV)
            b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) - b_lse[:, None]  # [BM, BN]
            b_w = tl.where(i + o_n[None, :] <= b_m[:, None], tl.exp(b_s), 0.0)
            b_g = b_w * (tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
            b_dq = tl.dot(b_g.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    for i_depth in range(0, LEVELS):
        i_node, i_right, i_from, size, i_first, i_last = tile_in(i_depth, i_start, i_end, NQ, CQ, CAUSAL, BM)
        if i_right == 1:
            for i_c in range(i_first, i_last + 1):
                i_row = (i_head * NODES + i_node) * CQ + i_c
                m_c = ((b_m - i_from) // size == i_c) & m_m
                b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))  # [BM, BD]
                for i in range(0, CK, BN):
                    i_j, m_n = i_row * CK + i, i + o_n < CK
                    b_a = tl.load(mass + i_j + o_n, mask=m_n, other=float("-inf"))
                    b_k = load_tile(mean_k + i_j * D, m_n, D, D, BN, BD)
                    b_v = load_tile(mean_v + i_j * DV, m_n, DV, DV, BN, BDV)
                    b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)
                    b_w = tl.where(m_c[:, None], tl.exp(b_s - b_lse[:, None]), 0.0)
                    b_g = b_w * (tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
                    b_dq = tl.dot(b_g.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    b_dq *= scale
    for i_depth in range(0, LEVELS):  # by themselves: what lives through the loops above would spill
        i_node, i_right, i_from, size, i_first, i_last = tile_in(i_depth, i_start, i_end, NQ, CQ, CAUSAL, BM)
        if i_right == 1:
            o_c = (i_head * NODES + i_node) * CQ + (b_m - i_from) // size
            b_dq += load_rows(d_centroids, o_c, m_m, D, D, BD)
    store_rows(of_head(dq, dq_strides, i_b, i_h), o_row, m_m, dq_strides[2], b_dq, D, BD)


def runs_query_grad(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    centroids: Tensor,
    mass: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    d_centroids: Tensor,
    lse: Tensor,
    delta: Tensor,
    tree: Tree,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> Tensor:
    """dq = s sum_n g k_n (the exact block) + s sum_j g k~_ij (the summaries) + dp_i / |i| of every cluster it is in.

    Parameters
    ----------
    d_centroids : dp_i / |i|, as `runs_key_grad` returns it. The rest as in the forward; lse is over all keys.

    Bytes: q, k, v, dout and dq once, the summaries once. Operations: 3 / 2 of `runs_attend`.
    """
    B, Hq, _, D = q.shape
    Dv = v.shape[-1]
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("runs_query_grad", target_of(q), max(BD, BDV), q.element_size(), tile)
    tiles = tree.tiles(tile.rows)
    dq = row_empty(q)
    launch(
        runs_query_grad_kernel, (B * Hq * tiles,),
        q, k, v, dout, centroids, mass, mean_k, mean_v, d_centroids, lse, delta, dq, scale,
        *(x.stride()[:3] for x in (q, k, v, dout, dq)), tree.sizes, (Hq, Hq // k.shape[1], tiles), D, Dv,
        BD=BD, BDV=BDV, BM=tile.rows, BN=tile.cols, CAUSAL=tree.causal,
        PRECISION=precision or fp32_precision(q), tile=tile,
    )  # fmt: skip
    return dq
