"""Pairs of a query and a cluster that it chose: attention of all queries that chose a cluster to the cluster's keys.

Pairs sorted by their cluster make full tiles, as if the queries had been clustered by what they look for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..clustering.sort import sort_by_label
from ..common.launch import launch, target_of
from ..common.members import cluster_span, find_tile, member_rows, member_tiles
from ..common.online import softmax_merge, softmax_result, softmax_start, softmax_step
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def attend_pairs_kernel(
    q, k, v, pairs, k_members, parts, part_lse, scale, q_strides, k_strides, v_strides, sizes, D: tl.constexpr,
    DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: a tile of BM pairs of one cluster of keys
    HQ, G, NQ, NK, CK, SHARE, TILES = sizes
    order, offsets = pairs
    k_order, k_offsets = k_members
    i_head, i_tile = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES
    i_b, i_h, i_kv = i_head // HQ, i_head % HQ, i_head // G  # heads of one group follow each other
    i_j, i_start, i_end = find_tile(offsets + i_head * (CK + 1), i_tile, CK, BM, BINS)
    if i_start < i_end:
        p_q, p_k = of_head(q, q_strides, i_b, i_h), of_head(k, k_strides, i_b, i_h // G)
        p_v = of_head(v, v_strides, i_b, i_h // G)
        b_pair, m_m = member_rows(order + i_head * NQ * SHARE, i_start, i_end, BM)
        b_q = load_rows(p_q, b_pair // SHARE, m_m, q_strides[2], D, BD)  # [BM, BD]
        b_out, b_max, b_sum = softmax_start(BM, BDV)
        i_first, i_last = cluster_span(k_offsets + i_kv * (CK + 1), i_j)
        for i_k in range(i_first, i_last, BN):
            b_j, m_n = member_rows(k_order + i_kv * NK, i_k, i_last, BN)
            b_k = load_rows(p_k, b_j, m_n, k_strides[2], D, BD)  # [BN, BD]
            b_v = load_rows(p_v, b_j, m_n, v_strides[2], DV, BDV)
            b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
            b_s = tl.where(m_n[None, :], b_s, float("-inf"))
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        b_out, b_lse = softmax_result(b_out, b_max, b_sum)
        b_pair += i_head * NQ * SHARE
        store_rows(parts, b_pair, m_m, DV, b_out, DV, BDV)
        tl.store(part_lse + b_pair, b_lse, mask=m_m)


@triton.jit
def merge_pairs_kernel(
    choices, parts, part_lse, out, lse, out_strides, lse_strides, sizes, DV: tl.constexpr, BDV: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    # one program: the partials of BM queries of one head
    HQ, NQ, SHARE, TILES = sizes
    i_head, i_tile = (tl.program_id(0) // TILES).to(tl.int64), tl.program_id(0) % TILES
    o_n = i_tile * BM + tl.arange(0, BM)
    m_m = o_n < NQ
    p_out = of_head(out, out_strides, i_head // HQ, i_head % HQ)
    p_lse = of_head(lse, lse_strides, i_head // HQ, i_head % HQ) + o_n
    b_out, b_max, b_sum = softmax_start(BM, BDV)
    b_there = load_rows(p_out, o_n, m_m, out_strides[2], DV, BDV)
    b_lse = tl.load(p_lse, mask=m_m, other=float("-inf"))
    b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_there, b_lse)
    for i in range(0, SHARE):
        o_pair = (i_head * NQ + o_n) * SHARE + i
        m_pair = tl.load(choices + o_pair, mask=m_m, other=-1) >= 0  # no other has a partial
        b_part = load_rows(parts, o_pair, m_pair, DV, DV, BDV)
        b_lse = tl.load(part_lse + o_pair, mask=m_pair, other=float("-inf"))
        b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_part, b_lse)
    b_out, b_lse = softmax_result(b_out, b_max, b_sum)
    store_rows(p_out, o_n, m_m, out_strides[2], b_out, DV, BDV)
    tl.store(p_lse, b_lse, mask=m_m)


def attend_pairs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    choices: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    scale: float,
    place: tuple[Tensor, Tensor],
    precision: str,
    tile: Tile | None = None,
) -> None:
    """Add to `place`, out and lse of every query, the keys of the clusters that it chose.

    Parameters
    ----------
    q, k, v : [B, Hq, Nq, D], [B, Hk, Nk, D], [B, Hk, Nk, Dv], rows contiguous.
    choices : [B, Hq, Nq, S] int64, contiguous, different ones of a query; -1 for none.
    k_order, k_offsets : the clusters of keys, contiguous.

    Bytes: for every choice its query, and the partial of it written and read; the keys and values of a cluster once for
    every tile of its pairs (L2). Operations: 2 B Hq Nq S (D + Dv) Nk / Ck for clusters of one size.
    """
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv, Ck, share = k.shape[1], k.shape[2], v.shape[-1], k_offsets.shape[-1] - 1, choices.shape[-1]
    order, offsets, _ = sort_by_label(choices.flatten(2), Ck)
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("by_query_attend", target_of(q), max(BD, BDV), q.element_size(), tile)
    parts = torch.empty(*choices.shape, Dv, dtype=q.dtype, device=q.device)
    part_lse = torch.empty(choices.shape, dtype=torch.float32, device=q.device)
    tiles = member_tiles(Nq * share, Ck, tile.rows)
    launch(
        attend_pairs_kernel, (B * Hq * tiles,),
        q, k, v, (order, offsets), (k_order, k_offsets), parts, part_lse, scale,
        q.stride()[:3], k.stride()[:3], v.stride()[:3], (Hq, Hq // Hk, Nq, Nk, Ck, share, tiles), D, Dv,
        BD=BD, BDV=BDV, BINS=power_of_two(Ck), BM=tile.rows, BN=tile.cols, PRECISION=precision, tile=tile,
    )  # fmt: skip
    out, lse = place
    tile = choose("by_query_merge", target_of(q), BDV, q.element_size())
    tiles = cdiv(Nq, tile.rows)
    launch(
        merge_pairs_kernel, (B * Hq * tiles,),
        choices, parts, part_lse, out, lse, out.stride()[:3], lse.stride()[:2], (Hq, Nq, share, tiles), Dv,
        BDV=BDV, BM=tile.rows, tile=tile,
    )  # fmt: skip
