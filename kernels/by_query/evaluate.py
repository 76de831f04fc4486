"""Attention of queries that choose their near clusters one by one: each query those of largest mass at itself.

Queries of one cluster agree on many of them. A program takes a tile of such queries, finds what each has chosen, and
goes through the clusters that any of them has: keys count for those who chose them, and for the others the summary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.expansion import displacement
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, member_rows
from ..common.online import softmax_merge, softmax_result, softmax_start, softmax_step
from ..common.rows import load_row, load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from ..muse.evaluate import place_of_result

MOST = 256  # clusters of keys


@triton.jit
def muse_by_query_kernel(
    q, k, v, centroids, q_members, k_members, summaries, out, lse, scale, q_strides, k_strides, v_strides, out_strides,
    lse_strides, sizes, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MERGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: every PARTS-th tile of BM queries of one query cluster
    HQ, G, NQ, NK, CQ, CK, NEAR, PARTS = sizes
    q_order, q_offsets = q_members
    k_order, k_offsets = k_members
    mass, mean_k, mean_v = summaries
    i_row = (tl.program_id(0) // PARTS).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    i_b, i_h, i_kv = i_head // HQ, i_head % HQ, i_head // G  # heads of one group follow each other
    p_q, p_k = of_head(q, q_strides, i_b, i_h), of_head(k, k_strides, i_b, i_h // G)
    p_v, p_out = of_head(v, v_strides, i_b, i_h // G), of_head(out, out_strides, i_b, i_h)
    o_c, o_w = tl.arange(0, BC), tl.arange(0, BC // 32)
    m_c, o_j = o_c < CK, i_row * CK + o_c
    i_begin, i_end = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
    for i_start in range(i_begin + tl.program_id(0) % PARTS * BM, i_end, PARTS * BM):
        b_n, m_m = member_rows(q_order + i_head * NQ, i_start, i_end, BM)
        b_q = load_rows(p_q, b_n, m_m, q_strides[2], D, BD)  # [BM, BD]
        b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))
        b_a = tl.load(mass + o_j, mask=m_c, other=float("-inf"))
        b_mean = load_rows(mean_k, o_j, m_c, D, D, BD)  # [BC, BD]
        b_far = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_mean), input_precision=PRECISION)  # [BM, BC]
        for _ in range(0, NEAR):
            _, b_arg = tl.max(b_far, axis=1, return_indices=True)  # where nothing is left, one that is gone
            b_far = tl.where(o_c[None, :] == b_arg[:, None], float("-inf"), b_far)
        b_near = ((b_far == float("-inf")) & (b_a > float("-inf"))[None, :] & m_m[:, None]).to(tl.int32)
        b_any = tl.max(b_near, axis=0)  # [BC]
        # A bit a cluster waits in few registers for the cluster's keys.
        b_bits = tl.zeros([BM, BC // 32], dtype=tl.int32)
        for i_w in tl.static_range(BC // 32):
            b_word = tl.sum(tl.where((o_c // 32 == i_w)[None, :], b_near << (o_c % 32)[None, :], 0), axis=1)
            b_bits = tl.where(o_w[None, :] == i_w, b_word[:, None], b_bits)
        b_out, b_max, b_sum = softmax_start(BM, BDV)
        b_value = load_rows(mean_v, o_j, m_c, DV, DV, BDV)
        b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_far, b_value, PRECISION)
        i_j = tl.min(tl.where(b_any > 0, o_c, BC))
        while i_j < CK:  # near: the keys of one cluster after the other, for those who chose it
            b_mine = tl.sum(tl.where(o_w[None, :] == i_j // 32, b_bits, 0), axis=1) >> (i_j % 32)
            i_first, i_last = cluster_span(k_offsets + i_kv * (CK + 1), i_j)
            for i_k in range(i_first, i_last, BN):
                b_j, m_n = member_rows(k_order + i_kv * NK, i_k, i_last, BN)
                b_k = load_rows(p_k, b_j, m_n, k_strides[2], D, BD)  # [BN, BD]
                b_v = load_rows(p_v, b_j, m_n, v_strides[2], DV, BDV)
                b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                b_s = tl.where(((b_mine & 1) == 1)[:, None] & m_n[None, :], b_s, float("-inf"))
                b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
            i_j = tl.min(tl.where((b_any > 0) & (o_c > i_j), o_c, BC))
        p_lse = of_head(lse, lse_strides, i_b, i_h) + b_n
        if MERGE:  # with the partial that is there
            b_there = load_rows(p_out, b_n, m_m, out_strides[2], DV, BDV)
            b_lse = tl.load(p_lse, mask=m_m, other=float("-inf"))
            b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_there, b_lse)
        b_out, b_lse = softmax_result(b_out, b_max, b_sum)
        store_rows(p_out, b_n, m_m, out_strides[2], b_out, DV, BDV)
        tl.store(p_lse, b_lse, mask=m_m)


def fits(q: Tensor, v: Tensor, clusters: int) -> bool:
    """Whether a program has place for the means of that many clusters: a fifth of its shared memory.

    With more, registers spill. In half precision, with heads of 64, those are 256 clusters on an A100 and an H100, the
    most that there are, 128 on a device of 99 KB, and 64 on a T4, which has place for no larger heads.
    """
    target, most = target_of(q), power_of_two(clusters, 32)
    widest = power_of_two(max(q.shape[-1], v.shape[-1]))
    if most > MOST or (widest > 64 and target.capability < 80):
        return False
    return 5 * most * widest * q.element_size() <= 1024 * target.shared_kb


def evaluate_by_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centroids: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    mass: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    scale: float,
    near: int,
    tile: Tile | None = None,
    precision: str | None = None,
    padded: bool = True,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`muse.evaluate` where each query q = p_i + d chooses for itself: the `near` clusters of largest a_ij + s d.k~_ij.

    The logits are s q.k_n with value v_n for the keys of those, and a_ij + s d.k~_ij with v~_ij for all other clusters;
    of equal ones the lower index is chosen. There is no dipole, and no derivative.

    Parameters
    ----------
    q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, precision, padded, into : as in `muse.evaluate`.
    mass, mean_k, mean_v : from `muse.summarise`; of as many clusters of keys as `fits` allows.
    near : clusters of every query, at least 1; with all of them the result is exact.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32. A padded query has out 0 and lse -inf.

    Bytes: as in `muse.evaluate`, with the keys and values of the n clusters that any query of a tile has chosen.
    Operations: 2 B Hq Nq (D + Dv) (Ck + n Nk / Ck).
    """
    check_tensors("evaluate_by_query", q=q, k=k, v=v)
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv, Cq, Ck = k.shape[1], k.shape[2], v.shape[-1], centroids.shape[2], mass.shape[-1]
    check_given("evaluate_by_query", torch.float32, q, mass=(mass, (B, Hq, Cq, Ck)))
    if not fits(q, v, Ck):
        raise ValueError(
            f"evaluate_by_query: {Ck} clusters of keys with heads of {max(D, Dv)} have no place in a program here; "
            'use backend="auto", which takes torch then, or fewer clusters'
        )
    q, k, v = row_strided(q), row_strided(k), row_strided(v)
    BD, BDV, BC = power_of_two(D), power_of_two(Dv), power_of_two(Ck, 32)
    tile = choose("by_query", target_of(q), max(BD, BDV), q.element_size(), tile)
    out, lse = place_of_result(q, Dv, padded, into)
    parts = cdiv(Nq, Cq * tile.rows)
    launch(
        muse_by_query_kernel, (B * Hq * Cq * parts,),
        q, k, v, centroids.contiguous(), (q_order.contiguous(), q_offsets.contiguous()),
        (k_order.contiguous(), k_offsets.contiguous()), tuple(x.contiguous() for x in (mass, mean_k, mean_v)),
        out, lse, scale, q.stride()[:3], k.stride()[:3], v.stride()[:3], out.stride()[:3], lse.stride()[:2],
        (Hq, Hq // Hk, Nq, Nk, Cq, Ck, min(near, Ck), parts), D, Dv,
        BD=BD, BDV=BDV, BC=BC, BM=tile.rows, BN=tile.cols, MERGE=into is not None,
        PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    return out, lse
