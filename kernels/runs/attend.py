"""Attention over a tree of consecutive clusters: a tile of queries meets all that it sees in one online softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.expansion import displacement
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_empty
from ..common.online import softmax_lse, softmax_mean, softmax_start, softmax_step
from ..common.rows import load_row, load_rows, load_tile, of_head, store_rows
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, node_at, tile_at, tile_in


@triton.jit
def runs_attend_kernel(
    q, k, v, centroids, near, far, mean_k, mean_v, out, lse, scale, q_strides, k_strides, v_strides, out_strides,
    tree, sizes, D: tl.constexpr, DV: tl.constexpr, NEAR: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
    HQ, G, TILES = sizes
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_b, i_h = i_head // HQ, i_head % HQ
    i_start, i_end = tile_at(tl.program_id(0) % TILES, BLOCK, BM)
    p_k, p_v = of_head(k, k_strides, i_b, i_h // G), of_head(v, v_strides, i_b, i_h // G)
    o_n, b_m = tl.arange(0, BN), i_start + tl.arange(0, BM)
    m_m, o_row = b_m < i_end, b_m.to(tl.int64)
    b_q = load_rows(of_head(q, q_strides, i_b, i_h), o_row, m_m, q_strides[2], D, BD)  # [BM, BD]
    b_out, b_max, b_sum = softmax_start(BM, BDV)
    if CAUSAL:  # the block on the diagonal
        for i in range(i_end - BLOCK, i_start, BN):  # keys before all queries of the tile
            i_key = tl.cast(i, tl.int64)
            b_k = load_tile(p_k + i_key * k_strides[2], None, k_strides[2], D, BN, BD)  # [BN, BD]
            b_v = load_tile(p_v + i_key * v_strides[2], None, v_strides[2], DV, BN, BDV)  # [BN, BDV]
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        for i in range(i_start, tl.minimum(i_start + BM, i_end), BN):
            i_key, m_n = tl.cast(i, tl.int64), i + o_n < i_end
            b_k = load_tile(p_k + i_key * k_strides[2], m_n, k_strides[2], D, BN, BD)
            b_v = load_tile(p_v + i_key * v_strides[2], m_n, v_strides[2], DV, BN, BDV)
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
            b_s = tl.where(i + o_n[None, :] <= b_m[:, None], b_s, float("-inf"))
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
    for i_depth in range(0, LEVELS):
        i_node, i_right, i_from, size, i_first, i_last = tile_in(i_depth, i_start, i_end, NQ, CQ, CAUSAL, BM)
        if i_right == 1:
            for i_c in range(i_first, i_last + 1):
                i_row = (i_head * NODES + i_node) * CQ + i_c
                m_c = (b_m - i_from) // size == i_c
                b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))  # [BM, BD]
                for i in range(0, CK, BN):  # far: one term a cluster
                    i_j, m_n = i_row * CK + i, i + o_n < CK
                    b_a = tl.load(far + i_j + o_n, mask=m_n, other=float("-inf"))
                    b_k = load_tile(mean_k + i_j * D, m_n, D, D, BN, BD)
                    b_v = load_tile(mean_v + i_j * DV, m_n, DV, DV, BN, BDV)
                    b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)
                    b_s = tl.where(m_c[:, None], b_s, float("-inf"))
                    b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
                if NEAR > 0:  # one term a key
                    for i_near in range(0, NEAR):
                        _, i_k, _, n_k = node_at(i_node, NQ, NK, CAUSAL)
                        i_j = tl.load(near + i_row * NEAR + i_near)
                        i_near_key = i_k + tl.maximum(i_j, 0) * tl.cdiv(n_k, CK)
                        i_stop = tl.where(
                            i_j < 0, i_near_key, tl.minimum(i_near_key + tl.cdiv(n_k, CK), i_k + n_k)
                        )
                        for i in range(i_near_key, i_stop, BN):
                            i_key, m_n = tl.cast(i, tl.int64), i + o_n < i_stop
                            b_k = load_tile(p_k + i_key * k_strides[2], m_n, k_strides[2], D, BN, BD)
                            b_v = load_tile(p_v + i_key * v_strides[2], m_n, v_strides[2], DV, BN, BDV)
                            b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                            b_s = tl.where(m_n[None, :] & m_c[:, None], b_s, float("-inf"))
                            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
    p_out = of_head(out, out_strides, i_b, i_h)
    store_rows(p_out, o_row, m_m, out_strides[2], softmax_mean(b_out, b_sum), DV, BDV)
    tl.store(lse + i_head * NQ + b_m, softmax_lse(b_max, b_sum), mask=m_m)


def runs_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centroids: Tensor,
    near: Tensor | None,
    far: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    tree: Tree,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """out [B, Hq, N, Dv] and lse [B, Hq, N] fp32: exact blocks, near clusters and the summaries of all others.

    Parameters
    ----------
    near : key clusters that a query cluster sums exactly, int32 [B, Hq, nodes, Cq, near], or None.
    far : the mass of the others [B, Hq, nodes, Cq, Ck], -inf for the near ones; the rest as `runs_summaries` has it.

    Bytes: q, k, v, the results and the summaries once. Operations: 4 B Hq N D (block / 2 + levels Ck / 2 + near keys)
    for causal attention, 4 B Hq N D (Ck + near keys) for full.
    """
    B, Hq, Nq, D = q.shape
    Dv, BD, BDV = v.shape[-1], power_of_two(D), power_of_two(v.shape[-1])
    tile = choose("runs_attend", target_of(q), max(BD, BDV), q.element_size(), tile)
    tiles = tree.tiles(tile.rows)
    out = row_empty(q) if Dv == D else torch.empty(B, Hq, Nq, Dv, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, Hq, Nq, dtype=torch.float32, device=q.device)
    launch(
        runs_attend_kernel, (B * Hq * tiles,),
        q, k, v, centroids, far if near is None else near, far, mean_k, mean_v, out, lse, scale,
        q.stride()[:3], k.stride()[:3], v.stride()[:3], out.stride()[:3], tree.sizes, (Hq, Hq // k.shape[1], tiles),
        D, Dv, 0 if near is None else near.shape[-1], BD=BD, BDV=BDV, BM=tile.rows, BN=tile.cols,
        CAUSAL=tree.causal, PRECISION=precision or fp32_precision(q), tile=tile,
    )  # fmt: skip
    return out, lse
