"""Backward along the queries: a tile of queries meets what it saw, and receives its share of its clusters' means."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_empty
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, tile_at, tile_in


@triton.jit
def _query_grad_kernel(
    q, k, v, dout, centroids, mass, mean_k, mean_v, d_centroids, lse, delta, dq, scale, stride_qb, stride_qh,
    stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn, stride_ob, stride_oh, stride_on,
    stride_db, stride_dh, stride_dn, HQ, G, NQ, CQ, CK, BLOCK, LEVELS, NODES, TILES, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    i_start, i_end = tile_at(tl.program_id(0) % TILES, BLOCK, BM)
    o_m, o_n, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
    m_d, m_dv = o_d < D, o_dv < DV
    o_k, o_v = o_n[:, None] * stride_kn + o_d[None, :], o_n[:, None] * stride_vn + o_dv[None, :]
    o_mk, o_mv = o_n[:, None] * D + o_d[None, :], o_n[:, None] * DV + o_dv[None, :]
    b_m = i_start + o_m
    m_m = b_m < i_end
    o_row = b_m.to(tl.int64)[:, None]
    i_b, i_h = i_head // HQ, i_head % HQ
    m_q, m_o = m_m[:, None] & m_d[None, :], m_m[:, None] & m_dv[None, :]
    b_q = tl.load(
        q + i_b * stride_qb + i_h * stride_qh + o_row * stride_qn + o_d[None, :], mask=m_q, other=0.0
    )
    b_do = tl.load(
        dout + i_b * stride_ob + i_h * stride_oh + o_row * stride_on + o_dv[None, :], mask=m_o, other=0.0
    )
    b_lse = tl.load(lse + i_head * NQ + b_m, mask=m_m, other=float("inf"))
    b_lse = tl.where(b_lse > float("-inf"), b_lse, float("inf"))
    b_delta = tl.load(delta + i_head * NQ + b_m, mask=m_m, other=0.0)
    b_dq = tl.zeros([BM, BD], dtype=tl.float32)
    if CAUSAL:
        p_k = k + i_b * stride_kb + i_h // G * stride_kh
        p_v = v + i_b * stride_vb + i_h // G * stride_vh
        for i in range(i_end - BLOCK, tl.minimum(i_start + BM, i_end), BN):
            m_n = i + o_n < i_end
            i_key = tl.cast(i, tl.int64)
            b_k = tl.load(p_k + i_key * stride_kn + o_k, mask=m_n[:, None] & m_d[None, :], other=0.0)
            b_v = tl.load(p_v + i_key * stride_vn + o_v, mask=m_n[:, None] & m_dv[None, :], other=0.0)
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
                b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0).to(tl.float32)
                b_d = (b_q.to(tl.float32) - b_p[None, :]).to(b_q.dtype)  # [BM, BD]
                for i in range(0, CK, BN):
                    m_n = i + o_n < CK
                    i_j = i_row * CK + i
                    b_a = tl.load(mass + i_j + o_n, mask=m_n, other=float("-inf"))
                    b_k = tl.load(mean_k + i_j * D + o_mk, mask=m_n[:, None] & m_d[None, :], other=0.0)
                    b_v = tl.load(mean_v + i_j * DV + o_mv, mask=m_n[:, None] & m_dv[None, :], other=0.0)
                    b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)
                    b_w = tl.where(m_c[:, None], tl.exp(b_s - b_lse[:, None]), 0.0)
                    b_g = b_w * (tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
                    b_dq = tl.dot(b_g.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    b_dq *= scale
    for i_depth in range(0, LEVELS):  # by themselves: what lives through the loops above would spill
        i_node, i_right, i_from, size, i_first, i_last = tile_in(i_depth, i_start, i_end, NQ, CQ, CAUSAL, BM)
        if i_right == 1:
            o_c = (i_head * NODES + i_node) * CQ + (b_m - i_from) // size
            p_dp = d_centroids + o_c[:, None] * D + o_d[None, :]
            b_dq += tl.load(p_dp, mask=m_q, other=0.0)
    p_dq = dq + i_b * stride_db + i_h * stride_dh + o_row * stride_dn + o_d[None, :]
    tl.store(p_dq, b_dq.to(b_q.dtype), mask=m_q)


def spatial_query_grad(
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
    d_centroids : dp_i / |i|, as `spatial_key_grad` returns it. The rest as in the forward; lse is over all keys.

    Bytes: q, k, v, dout and dq once, the summaries once. Operations: 3 / 2 of `spatial_attend`.
    """
    B, Hq, Nq, D = q.shape
    Dv = v.shape[-1]
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("spatial_query_grad", target_of(q), max(BD, BDV), q.element_size(), tile)
    tiles = tree.tiles(tile.rows)
    dq = row_empty(q)
    launch(
        _query_grad_kernel, (B * Hq * tiles,), q, k, v, dout, centroids, mass, mean_k, mean_v, d_centroids, lse, delta,
        dq, scale, *(s for x in (q, k, v, dout, dq) for s in x.stride()[:3]), Hq, Hq // k.shape[1], Nq,
        tree.query_clusters, tree.key_clusters, tree.block, tree.levels, tree.nodes, tiles, D, Dv, BD=BD, BDV=BDV,
        BM=tile.rows, BN=tile.cols, CAUSAL=tree.causal, PRECISION=precision or fp32_precision(q), tile=tile,
    )  # fmt: skip
    return dq
