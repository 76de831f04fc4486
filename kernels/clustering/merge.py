"""Clusters of larger and larger blocks from those of the leaves, and every level's members in sorted order.

A cluster of a block is one cluster of its left half and one of its right half, by a capped assignment of the clusters
of the right half's first leaf to those of the left one's, with room for one each: so all pairs are found at once.
Nothing of a level is proportional to its vectors but the order itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given
from ..common.launch import fp32_precision, launch, target_of
from ..common.rows import load_rows
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .assign import FARTHEST

# Clusters of a block at most: the distances of all pairs stay in registers.
MOST = 128


@triton.jit
def match_kernel(
    means, partners, sizes, D: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr
):
    # one program: the clusters of leaf i + 1 and those of the leaf that begins the block to its left, of one head
    H, C = sizes
    i_right, i_h = (tl.program_id(0) // H + 1).to(tl.int64), tl.program_id(0) % H
    i_left = i_right & (i_right - 1)
    o_c = tl.arange(0, BC)
    m_c, o_left, o_right = o_c < C, (i_left * H + i_h) * C, (i_right * H + i_h) * C
    b_left = load_rows(means, o_left + o_c, m_c, D, D, BD)  # [BC, BD]
    b_right = load_rows(means, o_right + o_c, m_c, D, D, BD)
    b_square = tl.sum(b_left * b_left, axis=1)[:, None] + tl.sum(b_right * b_right, axis=1)[None, :]
    b_d = b_square - 2.0 * tl.dot(b_left, tl.trans(b_right), input_precision=PRECISION)
    # [BC left, BC right] finite but for the left ones that are taken
    b_d = tl.where(b_d < FARTHEST, b_d, FARTHEST)
    b_d = tl.where(m_c[:, None] & m_c[None, :], b_d, float("inf"))
    b_found = tl.full([BC], -1, dtype=tl.int32)  # the left cluster of every right one
    n_open = C
    while n_open > 0:  # as in a capped assignment with room for one
        _, b_asked = tl.min(b_d, axis=0, return_indices=True)
        m_asks = (b_asked[None, :] == o_c[:, None]) & ((b_found < 0) & m_c)[None, :]
        b_least, b_chosen = tl.min(tl.where(m_asks, b_d, float("inf")), axis=1, return_indices=True)
        m_join = m_asks & (b_chosen[:, None] == o_c[None, :])
        m_joins = tl.sum(m_join.to(tl.int32), axis=0) > 0
        b_found = tl.where(m_joins, b_asked, b_found)
        b_d = tl.where((b_least < float("inf"))[:, None], float("inf"), b_d)
        n_open -= tl.sum(m_joins.to(tl.int32))
    tl.store(partners + o_right + o_c, b_found, mask=m_c)


@triton.jit
def places_kernel(partners, counts, offsets, numbers, before, sizes, BC: tl.constexpr):
    # one program: a left block of one level and head
    H, C, BLOCKS, LEVELS = sizes
    i_node, i_h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    i_level = 0
    i_pair = i_node
    for i in range(0, LEVELS):  # level i has BLOCKS >> (i + 1) pairs
        n_pairs = BLOCKS >> (i + 1)
        m_up = (i_level == i) & (i_pair >= n_pairs)
        i_pair = tl.where(m_up, i_pair - n_pairs, i_pair)
        i_level = tl.where(m_up, i + 1, i_level)
    o_c = tl.arange(0, BC)
    m_c = o_c < C
    o_level = i_level.to(tl.int64) * BLOCKS * H * C
    b_total = tl.zeros([BC], dtype=tl.int32)
    for i in range(0, 1 << i_level):
        i_leaf = (i_pair * 2 << i_level) + i
        b_number = o_c  # what the block calls the clusters of this leaf
        i_named, i_rest = i_leaf, i
        while i_rest > 0:
            b_number = tl.load(partners + (i_named * H + i_h) * C + b_number, mask=m_c, other=0)
            i_named, i_rest = i_named & (i_named - 1), i_rest & (i_rest - 1)
        o_leaf = (i_leaf * H + i_h) * C + o_c
        b_count = tl.load(counts + o_leaf, mask=m_c, other=0).to(tl.int32)
        m_own = (b_number[:, None] == o_c[None, :]) & m_c[:, None]
        # [BC] how many of the cluster lie in earlier leaves, for each cluster of this leaf
        b_before = tl.sum(tl.where(m_own, b_total[None, :], 0), axis=1)
        tl.store(numbers + o_level + o_leaf, b_number, mask=m_c)
        tl.store(before + o_level + o_leaf, b_before, mask=m_c)
        b_total += tl.sum(tl.where(m_own, b_count[:, None], 0), axis=0)
    b_offset = tl.cumsum(b_total, axis=0)
    p_offset = offsets + (i_node * H + i_h) * (C + 1)
    tl.store(p_offset + 1 + o_c, b_offset.to(tl.int64), mask=m_c)
    tl.store(p_offset, tl.zeros([], tl.int64))


@triton.jit
def order_kernel(
    labels, order, leaf_offsets, numbers, before, offsets, up_order, sizes, BN: tl.constexpr
):  # fmt: skip
    # one program: BN members of a leaf, in the order of a level that has it on the left
    H, C, BLOCKS, BLOCK, CHUNKS = sizes
    i_chunk, i_rest = tl.program_id(0) % CHUNKS, tl.program_id(0) // CHUNKS
    i_h, i_rest = i_rest % H, (i_rest // H).to(tl.int64)
    i_level, i_left = i_rest // (BLOCKS // 2), i_rest % (BLOCKS // 2)  # the how manieth leaf on the left
    n_leaves = tl.full([], 1, tl.int64) << i_level
    i_pair, i_inside = i_left // n_leaves, i_left % n_leaves
    i_row = (2 * i_pair * n_leaves + i_inside) * H + i_h  # of the leaf
    o_m = i_chunk * BN + tl.arange(0, BN)
    m_m = o_m < tl.load(leaf_offsets + i_row * (C + 1) + C)
    b_n = tl.load(order + i_row * BLOCK + o_m, mask=m_m, other=0)
    b_c = tl.load(labels + i_row * BLOCK + b_n, mask=m_m, other=0)
    o_number = i_level * BLOCKS * H * C + i_row * C + b_c
    b_j = tl.load(numbers + o_number, mask=m_m, other=0)
    i_node = BLOCKS - (BLOCKS >> i_level) + i_pair
    b_place = tl.load(offsets + (i_node * H + i_h) * (C + 1) + b_j, mask=m_m, other=0)
    b_place += tl.load(before + o_number, mask=m_m, other=0)
    b_place += o_m - tl.load(leaf_offsets + i_row * (C + 1) + b_c, mask=m_m, other=0)
    i_begin = (i_level * (BLOCKS // 2) + i_pair * n_leaves) * H + i_h * n_leaves  # in blocks
    tl.store(up_order + i_begin * BLOCK + b_place, i_inside * BLOCK + b_n, mask=m_m)


def merge_levels(
    labels: Tensor, means: Tensor, counts: Tensor, order: Tensor, offsets: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """The sorted members of the left block of every pair, at every level above the leaves too.

    Parameters
    ----------
    labels [blocks, H, n], means [blocks, H, C, D] fp32, counts [blocks, H, C], order [blocks, H, n] and
    offsets [blocks, H, C + 1] : of the leaves, as `kmeans` returns them; blocks = 2^levels, C at most 128.

    Returns
    -------
    order [levels, blocks / 2 * H * n] and offsets [blocks - 1, H, C + 1], int64, the levels one after the other:
    level i has pairs = blocks / 2^(i + 1), and so [pairs, H, n 2^i] and [pairs, H, C + 1]. Places in `order` behind the
    last offset of a head, those of padding, hold anything.

    Launches: 3. Bytes: 24 levels blocks H n / 2 and less than 8 blocks H C D.
    """
    blocks, H, n = labels.shape
    C, D = means.shape[2:]
    check_given(
        "merge_levels", torch.int64, labels, labels=(labels, (blocks, H, n)), order=(order, (blocks, H, n)),
        counts=(counts, (blocks, H, C)), offsets=(offsets, (blocks, H, C + 1)),
    )  # fmt: skip
    check_given("merge_levels", torch.float32, labels, means=(means, (blocks, H, C, D)))
    levels = blocks.bit_length() - 1
    if blocks != 1 << levels or levels < 1 or C > MOST:
        raise ValueError(
            f"merge_levels: {blocks} blocks of {C} clusters; 2^levels blocks, levels at least 1, of at most {MOST}"
        )
    labels, means, counts, order, offsets = (x.contiguous() for x in (labels, means, counts, order, offsets))
    BC, device = power_of_two(C, least=16), labels.device
    tile = choose("match", target_of(labels), max(16, BC), 4, tile)
    partners = torch.empty(blocks, H, C, dtype=torch.int32, device=device)
    launch(
        match_kernel, ((blocks - 1) * H,), means, partners, (H, C), D,
        BD=power_of_two(D), BC=BC, PRECISION=fp32_precision(means), tile=tile,
    )  # fmt: skip
    up_offsets = torch.empty(blocks - 1, H, C + 1, dtype=torch.int64, device=device)
    numbers, before = torch.empty(2, levels, blocks, H, C, dtype=torch.int32, device=device)
    launch(
        places_kernel, ((blocks - 1) * H,), partners, counts, up_offsets, numbers, before, (H, C, blocks, levels),
        BC=BC, tile=tile,
    )  # fmt: skip
    up_order = torch.empty(levels, blocks // 2 * H * n, dtype=torch.int64, device=device)
    BN = power_of_two(min(n, tile.cols))
    chunks = -(-n // BN)
    launch(
        order_kernel, (levels * (blocks // 2) * H * chunks,), labels, order, offsets, numbers, before, up_offsets,
        up_order, (H, C, blocks, n, chunks), BN=BN, tile=tile,
    )  # fmt: skip
    return up_order, up_offsets
