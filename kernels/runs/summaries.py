"""Means of consecutive queries, and the summaries of consecutive keys around them, for all nodes of a tree at once."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, node_at


@triton.jit
def _mean_kernel(
    q, centroids, stride_qb, stride_qh, stride_qn, HQ, NQ, NK, CQ, NODES,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of queries
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_node, i_c = i_row // (NODES * CQ), tl.program_id(0) // CQ % NODES, tl.program_id(0) % CQ
    i_q, _, n_q, _ = node_at(i_node, NQ, NK, CAUSAL)
    size = tl.cdiv(n_q, CQ)
    i_first = i_q + i_c * size
    i_end = tl.minimum(i_first + size, i_q + n_q)
    o_m, o_d = tl.arange(0, BM), tl.arange(0, BD)
    m_d = o_d < D
    p_q = q + i_head // HQ * stride_qb + i_head % HQ * stride_qh
    b_sum = tl.zeros([BD], dtype=tl.float32)
    for i in range(i_first, i_end, BM):
        o_row = (i + o_m).to(tl.int64)[:, None]
        b_q = tl.load(p_q + o_row * stride_qn + o_d[None, :], mask=(o_row < i_end) & m_d[None, :], other=0.0)
        b_sum += tl.sum(b_q.to(tl.float32), axis=0)
    b_mean = b_sum / tl.maximum(i_end - i_first, 1)
    tl.store(centroids + i_row * D + o_d, b_mean.to(centroids.dtype.element_ty), mask=m_d)


def spatial_means(q: Tensor, tree: Tree, tile: Tile | None = None) -> Tensor:
    """The mean of every cluster of q [B, Hq, N, D] in every node: [B, Hq, nodes, Cq, D] in the dtype of q.

    An empty cluster has mean 0. Bytes: half of q for every level (all of it in full attention), the means once.
    """
    B, Hq, _, D = q.shape
    tile = choose("spatial_mean", target_of(q), power_of_two(D), q.element_size(), tile)
    longest = cdiv(tree.queries >> tree.causal, tree.query_clusters)
    centroids = torch.empty(B, Hq, tree.nodes, tree.query_clusters, D, dtype=q.dtype, device=q.device)
    launch(
        _mean_kernel, (B * Hq * tree.nodes * tree.query_clusters,), q, centroids, *q.stride()[:3], Hq, tree.queries,
        tree.keys, tree.query_clusters, tree.nodes, D, BD=power_of_two(D), BM=min(tile.rows, power_of_two(longest)),
        CAUSAL=tree.causal, tile=tile,
    )  # fmt: skip
    return centroids


@triton.jit
def _group_at(i_group, NK, CK, CAUSAL: tl.constexpr, BM: tl.constexpr):
    """The node of a program, its first cluster of keys, and how many: as many short ones as a tile of BM keys holds."""
    i_depth, n = 0, NK
    if CAUSAL:
        n = NK >> 1
    together = tl.maximum(1, BM // tl.cdiv(n, CK))
    if CAUSAL:
        while i_group >= (1 << i_depth) * tl.cdiv(CK, together):
            i_group -= (1 << i_depth) * tl.cdiv(CK, together)
            i_depth += 1
            together = tl.maximum(1, BM // tl.cdiv(NK >> (i_depth + 1), CK))
    groups = tl.cdiv(CK, together)
    return (1 << i_depth) - 1 + i_group // groups, i_group % groups * together, together


@triton.jit
def _summary_kernel(
    k, v, centroids, mass, mean_k, mean_v, scale, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    HEADS, HK, G, NQ, NK, CQ, CK, NODES, TILES, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr,
    BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC query centroids (of all heads of a group) and a tile of keys, one cluster of them or several
    i_tile, i_kv = tl.program_id(0) % TILES, tl.program_id(0) // TILES % HEADS
    i_node, i_j, together = _group_at(tl.program_id(0) // TILES // HEADS, NK, CK, CAUSAL, BM)
    _, i_k, _, n_k = node_at(i_node, NQ, NK, CAUSAL)
    size = tl.cdiv(n_k, CK)
    i_first = i_k + i_j * size
    i_end = tl.minimum(i_first + together * size, i_k + n_k)
    o_c = i_tile * BC + tl.arange(0, BC)
    o_d, o_dv, o_m = tl.arange(0, BD), tl.arange(0, BDV), tl.arange(0, BM)
    m_c, m_d, m_dv = o_c < G * CQ, o_d < D, o_dv < DV
    m_ck, m_cv = m_c[:, None] & m_d[None, :], m_c[:, None] & m_dv[None, :]
    # heads of one group follow each other
    o_row = ((i_kv * G + o_c // CQ).to(tl.int64) * NODES + i_node) * CQ + o_c % CQ  # [BC]
    b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_ck, other=0.0)
    o_out = o_row * CK + i_j
    p_mass = mass + o_out
    p_mk, p_mv = mean_k + o_out[:, None] * D + o_d[None, :], mean_v + o_out[:, None] * DV + o_dv[None, :]
    p_k = k + (i_kv // HK).to(tl.int64) * stride_kb + (i_kv % HK).to(tl.int64) * stride_kh
    p_v = v + (i_kv // HK).to(tl.int64) * stride_vb + (i_kv % HK).to(tl.int64) * stride_vh
    o_mk, o_mv = o_m[:, None] * stride_kn + o_d[None, :], o_m[:, None] * stride_vn + o_dv[None, :]
    b_max = tl.full([BC], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BC], dtype=tl.float32)
    b_mean_k = tl.zeros([BC, BD], dtype=tl.float32)
    b_mean_v = tl.zeros([BC, BDV], dtype=tl.float32)
    if together > 1:  # short clusters: the tile is loaded once, and its logits are computed once
        m_m = i_first + o_m < i_end
        i_n = tl.cast(i_first, tl.int64)
        b_k = tl.load(p_k + i_n * stride_kn + o_mk, mask=m_m[:, None] & m_d[None, :], other=0.0)  # [BM, BD]
        b_v = tl.load(p_v + i_n * stride_vn + o_mv, mask=m_m[:, None] & m_dv[None, :], other=0.0)  # [BM, BDV]
        b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale  # [BC, BM]
        for i in range(0, tl.minimum(together, CK - i_j)):
            m_i = m_m & (o_m // size == i)
            b_own = tl.where(m_i[None, :], b_s, float("-inf"))
            b_max = tl.max(b_own, axis=1)
            b_shift = tl.where(b_max > float("-inf"), b_max, 0.0)
            b_w = tl.exp(b_own - b_shift[:, None])
            b_sum = tl.sum(b_w, axis=1)
            b_safe = tl.where(b_sum == 0, 1.0, b_sum)  # an empty cluster: mass -inf, means 0
            b_w = (b_w / b_safe[:, None]).to(b_k.dtype)
            b_mean_k = tl.dot(b_w, b_k, input_precision=PRECISION)
            b_mean_v = tl.dot(b_w, b_v, input_precision=PRECISION)
            tl.store(p_mass + i, tl.where(b_sum == 0, float("-inf"), b_shift + tl.log(b_safe)), mask=m_c)
            tl.store(p_mk + i * D, b_mean_k.to(mean_k.dtype.element_ty), mask=m_ck)
            tl.store(p_mv + i * DV, b_mean_v.to(mean_v.dtype.element_ty), mask=m_cv)
    else:
        for i in range(i_first, i_end, BM):
            i_n = tl.cast(i, tl.int64)
            m_m = i + o_m < i_end
            # [BM, BD], [BM, BDV]
            b_k = tl.load(p_k + i_n * stride_kn + o_mk, mask=m_m[:, None] & m_d[None, :], other=0.0)
            b_v = tl.load(p_v + i_n * stride_vn + o_mv, mask=m_m[:, None] & m_dv[None, :], other=0.0)
            b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale
            b_s = tl.where(m_m[None, :], b_s, float("-inf"))  # [BC, BM]
            b_new = tl.maximum(b_max, tl.max(b_s, axis=1))
            b_w = tl.exp(b_s - b_new[:, None])
            b_keep = tl.exp(b_max - b_new)
            b_max = b_new
            b_sum = b_sum * b_keep + tl.sum(b_w, axis=1)
            b_w = b_w.to(b_k.dtype)
            b_mean_k = tl.dot(b_w, b_k, b_mean_k * b_keep[:, None], input_precision=PRECISION)
            b_mean_v = tl.dot(b_w, b_v, b_mean_v * b_keep[:, None], input_precision=PRECISION)
        b_safe = tl.where(b_sum == 0, 1.0, b_sum)
        tl.store(p_mass, tl.where(b_sum == 0, float("-inf"), b_max + tl.log(b_safe)), mask=m_c)
        tl.store(p_mk, (b_mean_k / b_safe[:, None]).to(mean_k.dtype.element_ty), mask=m_ck)
        tl.store(p_mv, (b_mean_v / b_safe[:, None]).to(mean_v.dtype.element_ty), mask=m_cv)


def spatial_summaries(
    centroids: Tensor,
    k: Tensor,
    v: Tensor,
    tree: Tree,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`summarise` of all nodes: a_ij = log sum_{n in j} exp(s p_i.k_n), and the means of k_n and v_n under its weights.

    Parameters
    ----------
    centroids : [B, Hq, nodes, Cq, D], as `spatial_means` makes them. k : [B, Hk, N, D]. v : [B, Hk, N, Dv].

    Returns
    -------
    mass [B, Hq, nodes, Cq, Ck] fp32, means of keys [B, Hq, nodes, Cq, Ck, D] and values [B, Hq, nodes, Cq, Ck, Dv].

    Bytes: half of k and v for every level, the results once. Operations: levels B Hq N Cq (2 D + Dv).
    """
    B, Hk, _, D = k.shape
    Hq, Dv, nodes = centroids.shape[1], v.shape[-1], tree.nodes
    Cq, Ck = tree.query_clusters, tree.key_clusters
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("spatial_summary", target_of(k), max(BD, BDV), k.element_size(), tile)
    rows = min(tile.rows, power_of_two(Hq // Hk * Cq))
    tile = replace(tile, warps=max(1, tile.warps * rows // tile.rows))  # few centroids are few products
    tiles = cdiv(Hq // Hk * Cq, rows)
    mass = torch.empty(B, Hq, nodes, Cq, Ck, dtype=torch.float32, device=k.device)
    mean_k = torch.empty(B, Hq, nodes, Cq, Ck, D, dtype=k.dtype, device=k.device)
    mean_v = torch.empty(B, Hq, nodes, Cq, Ck, Dv, dtype=k.dtype, device=k.device)
    lengths = [cdiv(tree.keys >> (depth + tree.causal), Ck) for depth in range(tree.levels)]
    groups = sum(cdiv(Ck, max(1, tile.cols // length)) << depth for depth, length in enumerate(lengths))
    launch(
        _summary_kernel, (groups * B * Hk * tiles,), k, v, centroids, mass, mean_k, mean_v, scale,
        *k.stride()[:3], *v.stride()[:3], B * Hk, Hk, Hq // Hk, tree.queries, tree.keys, Cq, Ck, nodes, tiles, D, Dv,
        BD=BD, BDV=BDV, BC=rows, BM=tile.cols, CAUSAL=tree.causal, PRECISION=precision or fp32_precision(k),
        tile=tile,
    )  # fmt: skip
    return mass, mean_k, mean_v
