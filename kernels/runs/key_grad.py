"""Backward along the keys: a tile of keys meets every query and every query cluster that saw it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_empty
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, tile_at, tile_in


@triton.jit
def _key_grad_kernel(
    q, k, v, dout, centroids, mass, d_mass, turn, d_mean_k, d_mean_v, lse, delta, dk, dv, parts, scale,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_ob, stride_oh, stride_on, stride_dkb, stride_dkh, stride_dkn, stride_dvb, stride_dvh, stride_dvn,
    HK, G, NQ, NK, CQ, CK, BLOCK, LEVELS, NODES, TILES, PARTS, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr,
    BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM keys of one head
    i_kv = (tl.program_id(0) // TILES).to(tl.int64)
    i_start, i_end = tile_at(TILES - 1 - tl.program_id(0) % TILES, BLOCK, BM)
    o_m, o_n, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
    o_c = tl.arange(0, BC)
    m_d, m_dv = o_d < D, o_dv < DV
    o_q, o_do = o_n[:, None] * stride_qn + o_d[None, :], o_n[:, None] * stride_on + o_dv[None, :]
    o_p = o_c[:, None] * D + o_d[None, :]
    o_sk, o_sv = o_c[:, None] * (CK * D) + o_d[None, :], o_c[:, None] * (CK * DV) + o_dv[None, :]
    b_m = i_start + o_m
    m_m = b_m < i_end
    o_row = b_m.to(tl.int64)[:, None]
    m_k, m_v = m_m[:, None] & m_d[None, :], m_m[:, None] & m_dv[None, :]
    i_b, i_h = i_kv // HK, i_kv % HK
    b_k = tl.load(
        k + i_b * stride_kb + i_h * stride_kh + o_row * stride_kn + o_d[None, :], mask=m_k, other=0.0
    )
    b_v = tl.load(
        v + i_b * stride_vb + i_h * stride_vh + o_row * stride_vn + o_dv[None, :], mask=m_v, other=0.0
    )
    b_dk = tl.zeros([BM, BD], dtype=tl.float32)
    b_dv = tl.zeros([BM, BDV], dtype=tl.float32)
    for i_g in range(0, G):
        i_head = i_kv * G + i_g
        if CAUSAL:  # the block on the diagonal
            p_q = q + i_b * stride_qb + (i_h * G + i_g) * stride_qh
            p_do = dout + i_b * stride_ob + (i_h * G + i_g) * stride_oh
            for i in range(i_start, i_end, BN):
                i_row = tl.cast(i, tl.int64)
                m_n = i + o_n < i_end
                b_q = tl.load(p_q + i_row * stride_qn + o_q, mask=m_n[:, None] & m_d[None, :], other=0.0)
                b_do = tl.load(p_do + i_row * stride_on + o_do, mask=m_n[:, None] & m_dv[None, :], other=0.0)
                b_lse = tl.load(lse + i_head * NQ + i + o_n, mask=m_n, other=float("inf"))
                b_delta = tl.load(delta + i_head * NQ + i + o_n, mask=m_n, other=0.0)
                b_s = (
                    scale * tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) - b_lse[None, :]
                )  # [BM, BN]
                b_w = tl.where(i + o_n[None, :] >= b_m[:, None], tl.exp(b_s), 0.0)
                b_dv = tl.dot(b_w.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
                b_g = b_w * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
                b_dk = tl.dot((b_g * scale).to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
        for i_depth in range(0, LEVELS):
            i_node, i_right, i_from, size, i_first, i_last = tile_in(
                i_depth, i_start, i_end, NK, CK, CAUSAL, BM
            )
            if i_right == 0 or not CAUSAL:
                i_part = i_start // BM  # the tile's place among the left ones of its level
                if CAUSAL:
                    n = NK >> (i_depth + 1)
                    i_part = (i_start - i_from + i_from // n // 2 * n) // BLOCK * tl.cdiv(BLOCK, BM)
                    i_part += i_start % BLOCK // BM
                p_part = parts + ((i_head * LEVELS + i_depth) * PARTS + i_part) * CQ * D
                for i_j in range(i_first, i_last + 1):
                    m_j = ((b_m - i_from) // size == i_j) & m_m
                    for i in range(0, CQ, BC):
                        i_c = (i_head * NODES + i_node) * CQ + i
                        i_s = i_c * CK + i_j
                        m_c = i + o_c < CQ
                        m_cd, m_cdv = m_c[:, None] & m_d[None, :], m_c[:, None] & m_dv[None, :]
                        b_p = tl.load(centroids + i_c * D + o_p, mask=m_cd, other=0.0)  # [BC, BD]
                        b_a = tl.load(mass + i_s + o_c * CK, mask=m_c, other=float("inf"))
                        b_da = tl.load(d_mass + i_s + o_c * CK, mask=m_c, other=0.0)
                        b_turn = tl.load(turn + i_s + o_c * CK, mask=m_c, other=0.0)
                        b_sk = tl.load(d_mean_k + i_s * D + o_sk, mask=m_cd, other=0.0)
                        b_sv = tl.load(d_mean_v + i_s * DV + o_sv, mask=m_cdv, other=0.0)
                        b_w = scale * tl.dot(b_k, tl.trans(b_p), input_precision=PRECISION)  # [BM, BC]
                        b_w = tl.where(m_j[:, None], tl.exp(b_w - b_a[None, :]), 0.0)
                        b_g = tl.dot(b_k, tl.trans(b_sk), input_precision=PRECISION)
                        b_g = tl.dot(b_v, tl.trans(b_sv), b_g, input_precision=PRECISION) - b_turn[None, :]
                        b_g = b_w * b_g * scale
                        # [BD, BC], the long side first, as tensor cores like it. The sum over the clusters of a
                        # tile is kept in memory: registers that live through both loops would spill.
                        b_dp = tl.dot(tl.trans(b_k), b_g.to(b_k.dtype), input_precision=PRECISION)
                        b_dp = tl.trans(b_dp)
                        if i_j > i_first:
                            tl.debug_barrier()
                            b_dp += tl.load(p_part + i * D + o_p, mask=m_cd, other=0.0)
                        tl.store(p_part + i * D + o_p, b_dp, mask=m_cd)
                        b_g += b_w * (b_da * scale)[None, :]
                        b_w = b_w.to(b_k.dtype)
                        b_dk = tl.dot(b_g.to(b_k.dtype), b_p, b_dk, input_precision=PRECISION)
                        b_dk = tl.dot(b_w, b_sk, b_dk, input_precision=PRECISION)
                        b_dv = tl.dot(b_w, b_sv, b_dv, input_precision=PRECISION)
    p_dk = dk + i_b * stride_dkb + i_h * stride_dkh + o_row * stride_dkn + o_d[None, :]
    p_dv = dv + i_b * stride_dvb + i_h * stride_dvh + o_row * stride_dvn + o_dv[None, :]
    tl.store(p_dk, b_dk.to(b_k.dtype), mask=m_k)
    tl.store(p_dv, b_dv.to(b_v.dtype), mask=m_v)


@triton.jit
def _centroid_grad_kernel(
    parts, d_centroids, NQ, CQ, BLOCK, LEVELS, NODES, PARTS, TILE, D: tl.constexpr, BD: tl.constexpr,
    BM: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of queries; the parts of all tiles of keys of its node
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_node, i_c = i_row // (NODES * CQ), tl.program_id(0) // CQ % NODES, tl.program_id(0) % CQ
    i_depth = 0
    n_q, n_parts, i_first = NQ, PARTS, 0
    if CAUSAL:
        while ((i_node + 1) >> (i_depth + 1)) > 0:
            i_depth += 1
        n_q = NQ >> (i_depth + 1)
        n_parts = n_q // BLOCK * tl.cdiv(BLOCK, TILE)
        i_first = (i_node + 1 - (1 << i_depth)) * n_parts
    size = tl.cdiv(n_q, CQ)
    members = tl.minimum(size, n_q - i_c * size)
    p_part = parts + ((i_head * LEVELS + i_depth) * PARTS + i_first) * CQ * D + i_c * D
    o_m, o_d = tl.arange(0, BM), tl.arange(0, BD)
    b_sum = tl.zeros([BD], dtype=tl.float32)
    for i in range(0, n_parts, BM):
        o_part = (i + o_m).to(tl.int64)[:, None]
        m_part = (o_part < n_parts) & (o_d < D)[None, :]
        b_sum += tl.sum(tl.load(p_part + o_part * CQ * D + o_d[None, :], mask=m_part, other=0.0), axis=0)
    tl.store(d_centroids + i_row * D + o_d, b_sum / tl.maximum(members, 1), mask=o_d < D)


def spatial_key_grad(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    centroids: Tensor,
    mass: Tensor,
    grads: tuple[Tensor, Tensor, Tensor, Tensor],
    lse: Tensor,
    delta: Tensor,
    tree: Tree,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dk and dv; and what every query receives through the mean of its cluster, [B, Hq, nodes, Cq, D] fp32.

    In the blocks on the diagonal as in flash attention. From a query cluster i with w = exp(s p_i.k_n - a_ij) and
    g = w (dk~.k_n + dv~.v_n - turn + da):  dk_n += w dk~ + s g p_i;  dv_n += w dv~;  dp_i += s (g - w da) k_n, for
    what the masses give to p_i, d = q - p_i takes.

    Parameters
    ----------
    grads : da, turn, dk~ and dv~, as `spatial_summary_grad` returns them.

    Bytes: q, k, v, dout and results once, the gradients of the summaries once for every tile of keys in a cluster,
    parts of dp_i for every tile: 4 levels N / (2 tile.rows) Cq D. Operations: 7 levels B Hq N Cq D and the blocks.
    """
    B, Hk, Nk, D = k.shape
    Hq, Dv, Cq = q.shape[1], v.shape[-1], tree.query_clusters
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("spatial_key_grad", target_of(k), max(BD, BDV), k.element_size(), tile)
    block = tree.block if tree.causal else Nk
    tiles = Nk // block * cdiv(block, tile.rows)
    parts = tiles // 2 if tree.causal else tiles
    dk, dv = row_empty(k), row_empty(v)
    part = torch.empty(B * Hq, tree.levels, parts, Cq, D, dtype=torch.float32, device=k.device)
    launch(
        _key_grad_kernel, (B * Hk * tiles,), q, k, v, dout, centroids, mass, *grads, lse, delta, dk, dv, part, scale,
        *(s for x in (q, k, v, dout, dk, dv) for s in x.stride()[:3]), Hk, Hq // Hk, tree.queries, Nk, Cq,
        tree.key_clusters, block, tree.levels, tree.nodes, tiles, parts, D, Dv, BD=BD, BDV=BDV, BM=tile.rows,
        BN=tile.cols, BC=16, CAUSAL=tree.causal, PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    d_centroids = torch.empty(centroids.shape, dtype=torch.float32, device=k.device)
    means = choose("spatial_mean", target_of(k), BD, 4)
    launch(
        _centroid_grad_kernel, (B * Hq * tree.nodes * Cq,), part, d_centroids, tree.queries, Cq, block, tree.levels,
        tree.nodes, parts, tile.rows, D, BD=BD, BM=means.rows, CAUSAL=tree.causal, tile=means,
    )  # fmt: skip
    return dk, dv, d_centroids
