"""All levels of causal blocks in one launch: the attention of every query to their key clusters, where its own cluster
is the same at each; the merge of what they found one by one; and the sum of what they give to a gradient.

A program keeps a tile of the queries of one cluster of one leaf and goes up: at every level where its leaf lies in the
right block it sees the clusters of the left one. So the exact part of the leaf is read and written once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.expansion import displacement
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, member_rows
from ..common.online import softmax_merge, softmax_result, softmax_start, softmax_step
from ..common.rows import load_row, load_rows, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def muse_levels_kernel(
    q, k, v, centroids, q_members, k_members, summaries, out, lse, scale, q_strides, k_strides, v_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: every PARTS-th tile of BM queries of one cluster of one leaf
    HQ, G, LEAF, BLOCKS, CQ, CK, NEAR, LEVELS, PARTS = sizes
    q_order, q_offsets = q_members
    k_order, k_offsets = k_members
    near, far, mean_k, mean_v = summaries
    i_row = (tl.program_id(0) // PARTS).to(tl.int64)
    i_leaf, i_h, i_c = i_row // CQ // HQ, i_row // CQ % HQ, i_row % CQ
    p_q = q + i_h * q_strides[0] + i_leaf * LEAF * q_strides[1]
    p_k, p_v = k + i_h // G * k_strides[0], v + i_h // G * v_strides[0]
    i_first = (i_h * BLOCKS + i_leaf) * LEAF  # in out and lse
    o_n = tl.arange(0, BN)
    i_begin, i_end = cluster_span(q_offsets + (i_leaf * HQ + i_h) * (CQ + 1), i_c)
    for i_start in range(i_begin + tl.program_id(0) % PARTS * BM, i_end, PARTS * BM):
        b_n, m_m = member_rows(q_order + (i_leaf * HQ + i_h) * LEAF, i_start, i_end, BM)
        b_q = load_rows(p_q, b_n, m_m, q_strides[1], D, BD)  # [BM, BD]
        b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))  # [BM, BD]
        b_out, b_max, b_sum = softmax_start(BM, BDV)
        for i_level in range(0, LEVELS):
            if (i_leaf >> i_level) & 1:
                i_pair, i_inside = i_leaf >> (i_level + 1), i_leaf & ((1 << i_level) - 1)
                i_place = ((i_pair * HQ + i_h) << i_level) + i_inside + i_level * (BLOCKS // 2) * HQ
                i_place = i_place * CQ + i_c  # of the query cluster among those of all levels
                for i in range(0, CK, BN):  # far: one term a cluster
                    m_n, o_j = i + o_n < CK, i_place * CK + i + o_n
                    b_a = tl.load(far + o_j, mask=m_n, other=float("-inf"))
                    b_k = load_rows(mean_k, o_j, m_n, D, D, BD)  # [BN, BD]
                    b_v = load_rows(mean_v, o_j, m_n, DV, DV, BDV)  # [BN, BDV]
                    b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)
                    b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
                for i_near in range(0, NEAR):  # near: one term a key
                    i_j = tl.load(near + i_place * NEAR + i_near)
                    if i_j >= 0:
                        i_node = BLOCKS - (BLOCKS >> i_level) + i_pair
                        i_hk = i_h // G
                        i_key = i_pair * 2 * LEAF << i_level  # where the left block begins
                        p_order = k_order + i_level * (BLOCKS // 2) * (HQ // G) * LEAF
                        p_order += (i_pair * (HQ // G) + i_hk) * LEAF << i_level
                        i_from, i_last = cluster_span(k_offsets + (i_node * (HQ // G) + i_hk) * (CK + 1), i_j)
                        for i_k in range(i_from, i_last, BN):
                            b_j, m_n = member_rows(p_order, i_k, i_last, BN)
                            b_k = load_rows(p_k + i_key * k_strides[1], b_j, m_n, k_strides[1], D, BD)
                            b_v = load_rows(p_v + i_key * v_strides[1], b_j, m_n, v_strides[1], DV, BDV)
                            b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                            b_s = tl.where(m_n[None, :], b_s, float("-inf"))
                            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        p_out, p_lse = out + i_first * DV, lse + i_first + b_n
        b_there = load_rows(p_out, b_n, m_m, DV, DV, BDV)
        b_lse = tl.load(p_lse, mask=m_m, other=float("-inf"))
        b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_there, b_lse)
        b_out, b_lse = softmax_result(b_out, b_max, b_sum)
        store_rows(p_out, b_n, m_m, DV, b_out, DV, BDV)
        tl.store(p_lse, b_lse, mask=m_m)


def evaluate_levels(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centroids: Tensor,
    q_sorted: tuple[Tensor, Tensor],
    k_sorted: tuple[Tensor, Tensor],
    near: Tensor,
    far: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    scale: float,
    into: tuple[Tensor, Tensor],
    tile: Tile | None = None,
) -> None:
    """`evaluate` of all levels, merged into the exact leaves.

    Parameters
    ----------
    q : [Hq, N, D], k : [Hk, N, D], v : [Hk, N, Dv]; N = blocks * leaf, blocks = 2^levels.
    centroids : [blocks, Hq, Cq, D] in the dtype of q, of the queries of the leaves; q_sorted: their order
        [blocks, Hq, leaf] and offsets [blocks, Hq, Cq + 1].
    k_sorted : the order of the keys [levels, blocks / 2 * Hk * leaf] and offsets [blocks - 1, Hk, Ck + 1], levels one
        after the other, as `merge_levels` makes them.
    near, far, mean_k, mean_v : as in `evaluate`, of [levels, blocks / 2 * Hq * Cq, .]: at level i those of
        [blocks / 2^(i + 1) pairs, Hq, 2^i Cq, .].
    into : out [Hq, N, Dv] and lse [Hq, N, 1] fp32, contiguous.

    Bytes: q, order and out once (out twice), the summaries once for every tile of queries (L2). Operations:
    Hq N levels (D + Dv) Ck.
    """
    (Hq, N, D), (Hk, _, Dv), out = q.shape, v.shape, into[0]
    blocks, Cq, levels = centroids.shape[0], centroids.shape[2], far.shape[0]
    leaf, Ck = N // blocks, far.shape[-1]
    q, k, v = row_strided(q), row_strided(k), row_strided(v)
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("evaluate", target_of(q), max(BD, BDV), q.element_size(), tile)
    parts = cdiv(leaf, Cq * tile.rows)
    launch(
        muse_levels_kernel, (blocks * Hq * Cq * parts,),
        q, k, v, centroids.contiguous(), q_sorted, k_sorted, (near, far, mean_k, mean_v), out, into[1], scale,
        q.stride()[:2], k.stride()[:2], v.stride()[:2],
        (Hq, Hq // Hk, leaf, blocks, Cq, Ck, near.shape[-1] if near.numel() else 0, levels, parts), D, Dv,
        BD=BD, BDV=BDV, BM=tile.rows, BN=tile.cols, PRECISION=fp32_precision(k), tile=tile,
    )  # fmt: skip


@triton.jit
def level_sum_kernel(
    leaves, levels, total, leaf_strides, sizes, RIGHT: tl.constexpr, LEVELS: tl.constexpr, D: tl.constexpr,
    BD: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    # one program: BM positions of one head
    H, N, BLOCK, TILES = sizes
    i_h, o_n = tl.program_id(0) // TILES, tl.program_id(0) % TILES * BM + tl.arange(0, BM)
    o_d, i_head = tl.arange(0, BD), i_h.to(tl.int64)
    m_n, m_d = o_n < N, (o_d < D)[None, :]
    o_row = o_n.to(tl.int64)
    o_leaf = (o_row // BLOCK) * leaf_strides[0] + i_head * leaf_strides[1] + (o_row % BLOCK) * leaf_strides[2]
    b_sum = tl.load(leaves + o_leaf[:, None] + o_d[None, :], mask=m_n[:, None] & m_d, other=0.0).to(
        tl.float32
    )
    for i_level in tl.static_range(LEVELS):
        size = BLOCK << i_level
        i_block = o_row // size
        m_side = m_n & (i_block % 2 == RIGHT)  # a level gives to one half of every pair of blocks
        o_part = ((i_block // 2 * H + i_head) * size + o_row % size) * D
        b_sum += tl.load(
            levels[i_level] + o_part[:, None] + o_d[None, :], mask=m_side[:, None] & m_d, other=0.0
        ).to(tl.float32)
    p_total = total + (i_head * N + o_row) * D
    tl.store(p_total[:, None] + o_d[None, :], b_sum.to(total.dtype.element_ty), mask=m_n[:, None] & m_d)


def level_sum(leaves: Tensor, *levels: Tensor, right: bool, tile: Tile | None = None) -> Tensor:
    """What the blocks on the diagonal and all levels give to the queries (right) or to the keys (left).

    total[n] = leaves[n] + sum over levels of the part of n, where n is in a right (left) block of that level.

    Parameters
    ----------
    leaves : [blocks, H, block, D], any strides with the last dimension contiguous.
    levels : of level l [blocks / 2^(l + 1), H, block 2^l, D].

    Returns
    -------
    [H, blocks block, D] in the dtype of the leaves, summed in fp32.

    Bytes: every part once, the sum once.
    """
    blocks, H, block, D = leaves.shape
    N = blocks * block
    total = torch.empty(H, N, D, dtype=leaves.dtype, device=leaves.device)
    tile = choose("level_sum", target_of(leaves), power_of_two(D), leaves.element_size(), tile)
    tiles = cdiv(N, tile.rows)
    launch(
        level_sum_kernel, (H * tiles,), leaves, tuple(x.contiguous() for x in levels), total, leaves.stride()[:3],
        (H, N, block, tiles), right, len(levels), D, BD=power_of_two(D), BM=tile.rows, tile=tile,
    )  # fmt: skip
    return total


@triton.jit
def muse_join_kernel(
    out,
    lse,
    partials,
    lses,
    sizes,
    DV: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
    LEVELS: tl.constexpr,
):
    # one program: BM queries of one head
    H, N, BLOCK, TILES = sizes
    i_h = (tl.program_id(0) // TILES).to(tl.int64)
    o_m = tl.program_id(0) % TILES * BM + tl.arange(0, BM)
    m_m, b_block = (o_m < N) & (o_m >= BLOCK), o_m // BLOCK  # the first block has its leaf alone
    b_row = i_h * N + o_m
    b_out = load_rows(out, b_row, m_m, DV, DV, BDV).to(tl.float32)  # [BM, BDV]
    b_max = tl.load(lse + b_row, mask=m_m, other=float("-inf"))
    b_sum = tl.where(b_max > float("-inf"), 1.0, 0.0)
    for i_level in tl.static_range(LEVELS):
        m_right = m_m & (((b_block >> i_level) & 1) == 1)
        b_size = BLOCK << i_level
        b_place = ((b_block >> (i_level + 1)) * H + i_h) * b_size + o_m % b_size
        b_part = load_rows(partials[i_level], b_place, m_right, DV, DV, BDV)
        b_lse = tl.load(lses[i_level] + b_place, mask=m_right, other=float("-inf"))
        b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_part, b_lse)
    b_out, b_max = softmax_result(b_out, b_max, b_sum)
    store_rows(out, b_row, m_m, DV, b_out, DV, BDV)
    tl.store(lse + b_row, b_max, mask=m_m)


def join_levels(out: Tensor, lse: Tensor, partials: Sequence[Tensor], lses: Sequence[Tensor]) -> None:
    """Merge partials of the right blocks into out [H, N, Dv] and lse [H, N, 1], in place; all are contiguous.

    So levels are evaluated beside the leaves and beside each other, where few blocks leave most of a device idle; it
    costs memory for their partials, which are written and read once more.

    partials [pairs, H, size, Dv] and lses [pairs, H, size] are of the levels from the leaves up; a pair of blocks is
    twice as long at each as at the one before.

    Bytes: out and lse read and written, and half as many read for every level. Operations: 4 H N Dv for every level.
    """
    (H, N, Dv), levels = out.shape, len(partials)
    BDV = power_of_two(Dv)
    tile = choose("join", target_of(out), BDV, out.element_size())
    tiles = cdiv(N, tile.rows)
    launch(
        muse_join_kernel, (H * tiles,), out, lse, tuple(partials), tuple(lses), (H, N, partials[0].shape[2], tiles), Dv,
        BDV=BDV, BM=tile.rows, LEVELS=levels, tile=tile,
    )  # fmt: skip
