"""The sorted members of clusters, and tiles of them that never cross a cluster; the shape, not the data, bounds their
number."""

from __future__ import annotations

import triton
import triton.language as tl

from .sizes import cdiv


def member_tiles(members: int, clusters: int, rows: int) -> int:
    """The most tiles that `members` in `clusters` clusters can need: sum_i ceil(n_i / rows)."""
    return min(members, cdiv(members, rows) + clusters)


@triton.jit
def find_tile(p_offsets, i_tile, C, BM: tl.constexpr, BINS: tl.constexpr):
    """The cluster of tile i_tile, where the tile starts and where its cluster ends in `order`.

    A tile behind the last one gets a start at or behind the end.
    """
    o_c = tl.arange(0, BINS)
    b_start = tl.load(p_offsets + o_c, mask=o_c < C, other=0)
    b_end = tl.load(p_offsets + o_c + 1, mask=o_c < C, other=0)
    b_tiles = ((b_end - b_start + BM - 1) // BM).to(tl.int32)  # [BINS]
    b_last = tl.cumsum(b_tiles, axis=0)
    i_cluster = tl.sum((b_last <= i_tile).to(tl.int32))  # clusters that lie wholly before this tile
    i_cluster = tl.minimum(i_cluster, C - 1)
    i_before = tl.sum(tl.where(o_c < i_cluster, b_tiles, 0))
    i_start = tl.load(p_offsets + i_cluster) + (i_tile - i_before).to(tl.int64) * BM
    return i_cluster, i_start, tl.load(p_offsets + i_cluster + 1)


@triton.jit
def cluster_span(p_offsets, i_cluster):
    """Where the members of a cluster begin and end in `order`."""
    return tl.load(p_offsets + i_cluster), tl.load(p_offsets + i_cluster + 1)


@triton.jit
def member_rows(p_order, i_start, i_end, BM: tl.constexpr):
    """The rows of BM members from place i_start of `order` on, and which of them lie before i_end; 0 for the others."""
    o_m = tl.arange(0, BM)
    m_m = i_start + o_m < i_end
    return tl.load(p_order + i_start + o_m, mask=m_m, other=0), m_m  # a 64-bit beginning, 32-bit offsets
