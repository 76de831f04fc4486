"""Backward along the keys: a tile of keys meets every query and every query cluster that saw it."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_empty
from ..common.rows import load_rows, load_tile, of_head, store_rows, store_tile
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, tile_at, tile_in


@triton.jit
def runs_key_grad_kernel(
    q, k, v, dout, centroids, mass, d_summaries, lse, delta, dk, dv, parts, scale,
    q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides, tree, sizes,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BC: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BM keys of one head
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
    HK, G, TILES, PARTS = sizes
    d_mass, tilt, d_mean_k, d_mean_v = d_summaries
    i_kv = (tl.program_id(0) // TILES).to(tl.int64)
    i_start, i_end = tile_at(TILES - 1 - tl.program_id(0) % TILES, BLOCK, BM)
    o_n, o_c, b_m = tl.arange(0, BN), tl.arange(0, BC), i_start + tl.arange(0, BM)
    m_m, o_row = b_m < i_end, b_m.to(tl.int64)
    i_b, i_h = i_kv // HK, i_kv % HK
    b_k = load_rows(of_head(k, k_strides, i_b, i_h), o_row, m_m, k_strides[2], D, BD)
    b_v = load_rows(of_head(v, v_strides, i_b, i_h), o_row, m_m, v_strides[2], DV, BDV)
    b_dk = tl.zeros([BM, BD], dtype=tl.float32)
    b_dv = tl.zeros([BM, BDV], dtype=tl.float32)
    for i_g in range(0, G):
        i_head = i_kv * G + i_g
        if CAUSAL:  # the block on the diagonal
            p_q, p_do = (
                of_head(q, q_strides, i_b, i_h * G + i_g),
                of_head(dout, dout_strides, i_b, i_h * G + i_g),
            )
            for i in range(i_start, i_end, BN):
                i_row, m_n = tl.cast(i, tl.int64), i + o_n < i_end
                b_q = load_tile(p_q + i_row * q_strides[2], m_n, q_strides[2], D, BN, BD)
                b_do = load_tile(p_do + i_row * dout_strides[2], m_n, dout_strides[2], DV, BN, BDV)
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
                for i in range(0, CQ, BC):
                    i_c, m_c = (i_head * NODES + i_node) * CQ + i, i + o_c < CQ
                    b_p = load_tile(centroids + i_c * D, m_c, D, D, BC, BD)  # [BC, BD]
                    b_dp = tl.zeros(
                        [BD, BC], dtype=tl.float32
                    )  # the long side first, as tensor cores like it
                    for i_j in range(i_first, i_last + 1):
                        m_j = ((b_m - i_from) // size == i_j) & m_m
                        i_s = i_c * CK + i_j
                        b_a = tl.load(mass + i_s + o_c * CK, mask=m_c, other=float("inf"))
                        b_da = tl.load(d_mass + i_s + o_c * CK, mask=m_c, other=0.0)
                        b_tilt = tl.load(tilt + i_s + o_c * CK, mask=m_c, other=0.0)
                        b_sk = load_tile(d_mean_k + i_s * D, m_c, CK * D, D, BC, BD)
                        b_sv = load_tile(d_mean_v + i_s * DV, m_c, CK * DV, DV, BC, BDV)
                        b_w = scale * tl.dot(b_k, tl.trans(b_p), input_precision=PRECISION)  # [BM, BC]
                        b_w = tl.where(m_j[:, None], tl.exp(b_w - b_a[None, :]), 0.0)
                        b_g = tl.dot(b_k, tl.trans(b_sk), input_precision=PRECISION)
                        b_g = tl.dot(b_v, tl.trans(b_sv), b_g, input_precision=PRECISION) - b_tilt[None, :]
                        b_g = b_w * b_g * scale
                        b_dp = tl.dot(tl.trans(b_k), b_g.to(b_k.dtype), b_dp, input_precision=PRECISION)
                        b_g += b_w * (b_da * scale)[None, :]
                        b_w = b_w.to(b_k.dtype)
                        b_dk = tl.dot(b_g.to(b_k.dtype), b_p, b_dk, input_precision=PRECISION)
                        b_dk = tl.dot(b_w, b_sk, b_dk, input_precision=PRECISION)
                        b_dv = tl.dot(b_w, b_sv, b_dv, input_precision=PRECISION)
                    store_tile(p_part + i * D, m_c, D, tl.trans(b_dp), D, BC, BD)
    store_rows(of_head(dk, dk_strides, i_b, i_h), o_row, m_m, dk_strides[2], b_dk, D, BD)
    store_rows(of_head(dv, dv_strides, i_b, i_h), o_row, m_m, dv_strides[2], b_dv, DV, BDV)


@triton.jit
def runs_centroid_grad_kernel(
    parts,
    d_centroids,
    tree,
    PARTS,
    TILE,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    # one program: one cluster of queries; the parts of all tiles of keys of its node
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
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
        o_part = (i + o_m).to(tl.int64)
        b_sum += tl.sum(load_rows(p_part, o_part * CQ, o_part < n_parts, D, D, BD), axis=0)
    tl.store(d_centroids + i_row * D + o_d, b_sum / tl.maximum(members, 1), mask=o_d < D)


def runs_key_grad(
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
    g = w (dk~.k_n + dv~.v_n - tilt + da):  dk_n += w dk~ + s g p_i;  dv_n += w dv~;  dp_i += s (g - w da) k_n, for
    what the masses give to p_i, d = q - p_i takes.

    Parameters
    ----------
    grads : da, tilt, dk~ and dv~, as `runs_summary_grad` returns them.

    Bytes: q, k, v, dout and results once, the gradients of the summaries once for every tile of keys in a cluster,
    parts of dp_i for every tile: 4 levels N / (2 tile.rows) Cq D. Operations: 7 levels B Hq N Cq D and the blocks.
    """
    B, Hk, Nk, D = k.shape
    Hq, Dv, Cq = q.shape[1], v.shape[-1], tree.query_clusters
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("runs_key_grad", target_of(k), max(BD, BDV), k.element_size(), tile)
    if not tree.causal:
        tree = replace(tree, block=Nk)  # a tile of keys ends where all keys do
    tiles = Nk // tree.block * cdiv(tree.block, tile.rows)
    parts = tiles // 2 if tree.causal else tiles
    dk, dv = row_empty(k), row_empty(v)
    part = torch.empty(B * Hq, tree.levels, parts, Cq, D, dtype=torch.float32, device=k.device)
    launch(
        runs_key_grad_kernel, (B * Hk * tiles,),
        q, k, v, dout, centroids, mass, grads, lse, delta, dk, dv, part, scale,
        *(x.stride()[:3] for x in (q, k, v, dout, dk, dv)), tree.sizes, (Hk, Hq // Hk, tiles, parts), D, Dv,
        BD=BD, BDV=BDV, BM=tile.rows, BN=tile.cols, BC=16, CAUSAL=tree.causal,
        PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    d_centroids = torch.empty(centroids.shape, dtype=torch.float32, device=k.device)
    means = choose("runs_mean", target_of(k), BD, 4)
    launch(
        runs_centroid_grad_kernel, (B * Hq * tree.nodes * Cq,), part, d_centroids, tree.sizes, parts, tile.rows,
        D, BD=BD, BM=means.rows, CAUSAL=tree.causal, tile=means,
    )  # fmt: skip
    return dk, dv, d_centroids
