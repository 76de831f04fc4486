"""Attention over a tree of consecutive clusters: a tile of queries meets all that it sees in one online softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_empty
from ..common.online import softmax_step
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, node_at, tile_at, tile_in


@triton.jit
def _attend_kernel(
    q, k, v, centroids, near, far, mean_k, mean_v, out, lse, scale, stride_qb, stride_qh, stride_qn, stride_kb,
    stride_kh, stride_kn, stride_vb, stride_vh, stride_vn, stride_ob, stride_oh, stride_on,
    HQ, G, NQ, NK, CQ, CK, BLOCK, LEVELS, NODES, TILES, D: tl.constexpr, DV: tl.constexpr, NEAR: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_start, i_end = tile_at(tl.program_id(0) % TILES, BLOCK, BM)
    o_m, o_n, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
    m_d, m_dv = o_d < D, o_dv < DV
    # rows of a tile from where it begins: a 64-bit scalar and 32-bit offsets hold the fewest registers
    o_k, o_v = o_n[:, None] * stride_kn + o_d[None, :], o_n[:, None] * stride_vn + o_dv[None, :]
    o_mk, o_mv = o_n[:, None] * D + o_d[None, :], o_n[:, None] * DV + o_dv[None, :]
    b_m = i_start + o_m
    m_m = b_m < i_end
    o_row = b_m.to(tl.int64)[:, None]
    p_q = q + i_head // HQ * stride_qb + i_head % HQ * stride_qh + o_row * stride_qn + o_d[None, :]
    p_k = k + i_head // HQ * stride_kb + i_head % HQ // G * stride_kh
    p_v = v + i_head // HQ * stride_vb + i_head % HQ // G * stride_vh
    b_q = tl.load(p_q, mask=m_m[:, None] & m_d[None, :], other=0.0)  # [BM, BD]
    b_max = tl.full([BM], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BM], dtype=tl.float32)
    b_out = tl.zeros([BM, BDV], dtype=tl.float32)
    if CAUSAL:  # the block on the diagonal
        for i in range(i_end - BLOCK, i_start, BN):  # keys before all queries of the tile
            i_key = tl.cast(i, tl.int64)
            b_k = tl.load(p_k + i_key * stride_kn + o_k, mask=m_d[None, :], other=0.0)  # [BN, BD]
            b_v = tl.load(p_v + i_key * stride_vn + o_v, mask=m_dv[None, :], other=0.0)  # [BN, BDV]
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        for i in range(i_start, tl.minimum(i_start + BM, i_end), BN):
            m_n = i + o_n < i_end
            i_key = tl.cast(i, tl.int64)
            b_k = tl.load(p_k + i_key * stride_kn + o_k, mask=m_n[:, None] & m_d[None, :], other=0.0)
            b_v = tl.load(p_v + i_key * stride_vn + o_v, mask=m_n[:, None] & m_dv[None, :], other=0.0)
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
            b_s = tl.where(i + o_n[None, :] <= b_m[:, None], b_s, float("-inf"))
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
    for i_depth in range(0, LEVELS):
        i_node, i_right, i_from, size, i_first, i_last = tile_in(i_depth, i_start, i_end, NQ, CQ, CAUSAL, BM)
        if i_right == 1:
            for i_c in range(i_first, i_last + 1):
                i_row = (i_head * NODES + i_node) * CQ + i_c
                m_c = (b_m - i_from) // size == i_c
                b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0).to(tl.float32)
                b_d = (b_q.to(tl.float32) - b_p[None, :]).to(b_q.dtype)  # [BM, BD]
                for i in range(0, CK, BN):  # far: one term a cluster
                    m_n = i + o_n < CK
                    i_j = i_row * CK + i
                    b_a = tl.load(far + i_j + o_n, mask=m_n, other=float("-inf"))
                    b_k = tl.load(mean_k + i_j * D + o_mk, mask=m_n[:, None] & m_d[None, :], other=0.0)
                    b_v = tl.load(mean_v + i_j * DV + o_mv, mask=m_n[:, None] & m_dv[None, :], other=0.0)
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
                            m_n = i + o_n < i_stop
                            p_kn = p_k + tl.cast(i, tl.int64) * stride_kn
                            p_vn = p_v + tl.cast(i, tl.int64) * stride_vn
                            b_k = tl.load(p_kn + o_k, mask=m_n[:, None] & m_d[None, :], other=0.0)
                            b_v = tl.load(p_vn + o_v, mask=m_n[:, None] & m_dv[None, :], other=0.0)
                            b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                            b_s = tl.where(m_n[None, :] & m_c[:, None], b_s, float("-inf"))
                            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
    b_safe = tl.where(b_sum == 0, 1.0, b_sum)
    p_out = out + i_head // HQ * stride_ob + i_head % HQ * stride_oh + o_row * stride_on + o_dv[None, :]
    tl.store(p_out, (b_out / b_safe[:, None]).to(b_q.dtype), mask=m_m[:, None] & m_dv[None, :])
    b_lse = tl.where(b_sum == 0, float("-inf"), b_max + tl.log(b_safe))
    tl.store(lse + i_head * NQ + b_m, b_lse, mask=m_m)


def spatial_attend(
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
    far : the mass of the others [B, Hq, nodes, Cq, Ck], -inf for the near ones; the rest as `spatial_summaries` has it.

    Bytes: q, k, v, the results and the summaries once. Operations: 4 B Hq N D (block / 2 + levels Ck / 2 + near keys)
    for causal attention, 4 B Hq N D (Ck + near keys) for full.
    """
    B, Hq, Nq, D = q.shape
    Dv, BD, BDV = v.shape[-1], power_of_two(D), power_of_two(v.shape[-1])
    tile = choose("spatial_attend", target_of(q), max(BD, BDV), q.element_size(), tile)
    tiles = tree.tiles(tile.rows)
    out = row_empty(q) if Dv == D else torch.empty(B, Hq, Nq, Dv, dtype=q.dtype, device=q.device)
    lse = torch.empty(B, Hq, Nq, dtype=torch.float32, device=q.device)
    launch(
        _attend_kernel, (B * Hq * tiles,), q, k, v, centroids, far if near is None else near, far, mean_k, mean_v,
        out, lse, scale, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], Hq,
        Hq // k.shape[1], Nq, tree.keys, tree.query_clusters, tree.key_clusters, tree.block, tree.levels, tree.nodes,
        tiles, D, Dv, 0 if near is None else near.shape[-1], BD=BD, BDV=BDV, BM=tile.rows, BN=tile.cols,
        CAUSAL=tree.causal, PRECISION=precision or fp32_precision(q), tile=tile,
    )  # fmt: skip
    return out, lse
