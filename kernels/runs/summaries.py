"""Means of consecutive queries, and the summaries of consecutive keys around them, for all nodes of a tree at once."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.online import softmax_lse, softmax_mean, softmax_start, softmax_weights
from ..common.rows import load_rows, load_tile, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, node_at, queries_of


@triton.jit
def runs_means_kernel(
    q,
    centroids,
    q_strides,
    tree,
    HQ,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    # one program: one cluster of queries
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
    i_row = tl.program_id(0).to(tl.int64)
    i_head, i_node, i_c = i_row // (NODES * CQ), tl.program_id(0) // CQ % NODES, tl.program_id(0) % CQ
    i_first, i_end = queries_of(i_node, i_c, NQ, NK, CQ, CAUSAL)
    o_m, o_d = tl.arange(0, BM), tl.arange(0, BD)
    p_q = of_head(q, q_strides, i_head // HQ, i_head % HQ)
    b_sum = tl.zeros([BD], dtype=tl.float32)
    for i in range(i_first, i_end, BM):
        o_row = (i + o_m).to(tl.int64)
        b_q = load_rows(p_q, o_row, o_row < i_end, q_strides[2], D, BD)
        b_sum += tl.sum(b_q.to(tl.float32), axis=0)
    b_mean = b_sum / tl.maximum(i_end - i_first, 1)
    tl.store(centroids + i_row * D + o_d, b_mean.to(centroids.dtype.element_ty), mask=o_d < D)


def runs_means(q: Tensor, tree: Tree, tile: Tile | None = None) -> Tensor:
    """The mean of every cluster of q [B, Hq, N, D] in every node: [B, Hq, nodes, Cq, D] in the dtype of q.

    An empty cluster has mean 0. Bytes: half of q for every level (all of it in full attention), the means once.
    """
    B, Hq, _, D = q.shape
    tile = choose("runs_mean", target_of(q), power_of_two(D), q.element_size(), tile)
    longest = cdiv(tree.queries >> tree.causal, tree.query_clusters)
    centroids = torch.empty(B, Hq, tree.nodes, tree.query_clusters, D, dtype=q.dtype, device=q.device)
    launch(
        runs_means_kernel, (B * Hq * tree.nodes * tree.query_clusters,), q, centroids, q.stride()[:3], tree.sizes,
        Hq, D, BD=power_of_two(D), BM=min(tile.rows, power_of_two(longest)), CAUSAL=tree.causal, tile=tile,
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
def runs_summaries_kernel(
    k, v, centroids, mass, mean_k, mean_v, scale, k_strides, v_strides, tree, sizes,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC query centroids (of all heads of a group) and a tile of keys, one cluster of them or several
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
    HEADS, HK, G, TILES = sizes
    i_tile, i_kv = tl.program_id(0) % TILES, tl.program_id(0) // TILES % HEADS
    i_node, i_j, together = _group_at(tl.program_id(0) // TILES // HEADS, NK, CK, CAUSAL, BM)
    i_q, i_k, n_q, n_k = node_at(i_node, NQ, NK, CAUSAL)
    size = tl.cdiv(n_k, CK)
    i_first = i_k + i_j * size
    i_end = tl.minimum(i_first + together * size, i_k + n_k)
    o_c, o_m = i_tile * BC + tl.arange(0, BC), tl.arange(0, BM)
    m_c = o_c < G * CQ
    # heads of one group follow each other
    o_row = ((i_kv * G + o_c // CQ).to(tl.int64) * NODES + i_node) * CQ + o_c % CQ  # [BC]
    b_p = load_rows(centroids, o_row, m_c, D, D, BD)
    o_out = o_row * CK + i_j
    p_k = of_head(k, k_strides, (i_kv // HK).to(tl.int64), (i_kv % HK).to(tl.int64))
    p_v = of_head(v, v_strides, (i_kv // HK).to(tl.int64), (i_kv % HK).to(tl.int64))
    if together > 1:  # short clusters: the tile is loaded once, and its logits are computed once
        i_n, m_m = tl.cast(i_first, tl.int64), i_first + o_m < i_end
        b_k = load_tile(p_k + i_n * k_strides[2], m_m, k_strides[2], D, BM, BD)  # [BM, BD]
        b_v = load_tile(p_v + i_n * v_strides[2], m_m, v_strides[2], DV, BM, BDV)  # [BM, BDV]
        b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale  # [BC, BM]
        for i in range(0, tl.minimum(together, CK - i_j)):  # every cluster by itself
            m_i = m_m & (o_m // size == i)
            b_mean_k, b_max, b_sum = softmax_start(BC, BD)
            b_w, b_keep, b_max, b_sum = softmax_weights(
                tl.where(m_i[None, :], b_s, float("-inf")), b_max, b_sum
            )
            b_w = softmax_mean(b_w, b_sum).to(b_k.dtype)
            b_mean_k = tl.dot(b_w, b_k, input_precision=PRECISION)
            b_mean_v = tl.dot(b_w, b_v, input_precision=PRECISION)
            store_rows(mean_k + i * D, o_out, m_c, D, b_mean_k, D, BD)
            store_rows(mean_v + i * DV, o_out, m_c, DV, b_mean_v, DV, BDV)
            # an empty cluster: mass -inf, means 0; last, for stored first it spills on 7.5
            tl.store(mass + o_out + i, softmax_lse(b_max, b_sum), mask=m_c)
    else:
        b_mean_k, b_max, b_sum = softmax_start(BC, BD)
        b_mean_v = tl.zeros([BC, BDV], dtype=tl.float32)
        for i in range(i_first, i_end, BM):
            i_n, m_m = tl.cast(i, tl.int64), i + o_m < i_end
            b_k = load_tile(p_k + i_n * k_strides[2], m_m, k_strides[2], D, BM, BD)
            b_v = load_tile(p_v + i_n * v_strides[2], m_m, v_strides[2], DV, BM, BDV)
            b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale
            b_s = tl.where(m_m[None, :], b_s, float("-inf"))  # [BC, BM]
            b_w, b_keep, b_max, b_sum = softmax_weights(b_s, b_max, b_sum)
            b_w = b_w.to(b_k.dtype)
            b_mean_k = tl.dot(b_w, b_k, b_mean_k * b_keep[:, None], input_precision=PRECISION)
            b_mean_v = tl.dot(b_w, b_v, b_mean_v * b_keep[:, None], input_precision=PRECISION)
        tl.store(mass + o_out, softmax_lse(b_max, b_sum), mask=m_c)
        store_rows(mean_k, o_out, m_c, D, softmax_mean(b_mean_k, b_sum), D, BD)
        store_rows(mean_v, o_out, m_c, DV, softmax_mean(b_mean_v, b_sum), DV, BDV)


def runs_summaries(
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
    centroids : [B, Hq, nodes, Cq, D], as `runs_means` makes them. k : [B, Hk, N, D]. v : [B, Hk, N, Dv].

    Returns
    -------
    mass [B, Hq, nodes, Cq, Ck] fp32, means of keys [B, Hq, nodes, Cq, Ck, D] and values [B, Hq, nodes, Cq, Ck, Dv].

    Bytes: half of k and v for every level, the results once. Operations: levels B Hq N Cq (2 D + Dv).
    """
    B, Hk, _, D = k.shape
    Hq, Dv, nodes = centroids.shape[1], v.shape[-1], tree.nodes
    Cq, Ck = tree.query_clusters, tree.key_clusters
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("runs_summary", target_of(k), max(BD, BDV), k.element_size(), tile)
    rows = min(tile.rows, power_of_two(Hq // Hk * Cq))
    tile = replace(tile, warps=max(1, tile.warps * rows // tile.rows))  # few centroids are few products
    tiles = cdiv(Hq // Hk * Cq, rows)
    mass = torch.empty(B, Hq, nodes, Cq, Ck, dtype=torch.float32, device=k.device)
    mean_k = torch.empty(B, Hq, nodes, Cq, Ck, D, dtype=k.dtype, device=k.device)
    mean_v = torch.empty(B, Hq, nodes, Cq, Ck, Dv, dtype=k.dtype, device=k.device)
    lengths = [cdiv(tree.keys >> (depth + tree.causal), Ck) for depth in range(tree.levels)]
    groups = sum(cdiv(Ck, max(1, tile.cols // length)) << depth for depth, length in enumerate(lengths))
    launch(
        runs_summaries_kernel, (groups * B * Hk * tiles,), k, v, centroids, mass, mean_k, mean_v, scale,
        k.stride()[:3], v.stride()[:3], tree.sizes, (B * Hk, Hk, Hq // Hk, tiles), D, Dv, BD=BD, BDV=BDV,
        BC=rows, BM=tile.cols, CAUSAL=tree.causal, PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    return mass, mean_k, mean_v
