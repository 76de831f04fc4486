"""Where everything is in MuSe with clusters of consecutive positions: a tree of blocks, known without looking at data.

Causal: N = block * 2^levels positions. Node 0 is the whole sequence, nodes 2x + 1 and 2x + 2 are the halves of node x;
in every node the queries of the right half see the keys of the left half, each in a number of runs of equal length.
What is below the last nodes, the blocks on the diagonal, is exact. Full attention is node 0 alone, over all queries
and keys. No order or offset is stored or read: every position follows from the number of its node.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from ..common.sizes import cdiv


@dataclass(frozen=True)
class Tree:
    """The sizes that the kernels share.

    queries, keys : positions; the same number in causal attention.
    query_clusters, key_clusters : Cq and Ck, of the two sides of every node.
    block : positions of an exact block (causal), else all queries. levels : how often blocks are doubled; 1 for full.
    """

    queries: int
    keys: int
    query_clusters: int
    key_clusters: int
    block: int
    levels: int
    causal: bool

    @classmethod
    def full(cls, queries: int, keys: int, query_clusters: int, key_clusters: int) -> Tree:
        return cls(queries, keys, query_clusters, key_clusters, queries, 1, False)

    @classmethod
    def causal_of(cls, block: int, levels: int, query_clusters: int, key_clusters: int) -> Tree:
        return cls(block << levels, block << levels, query_clusters, key_clusters, block, levels, True)

    @property
    def nodes(self) -> int:
        return (1 << self.levels) - 1 if self.causal else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """What kernels are given as `tree`: NQ, NK, CQ, CK, BLOCK, LEVELS, NODES."""
        clusters = self.query_clusters, self.key_clusters
        return self.queries, self.keys, *clusters, self.block, self.levels, self.nodes

    def tiles(self, rows: int) -> int:
        """Tiles of that many positions in the exact blocks of the queries."""
        return self.queries // self.block * cdiv(self.block, rows)


@triton.jit
def node_at(i_node, NQ, NK, CAUSAL: tl.constexpr):
    """The first query and first key of a node, and how many of each it has."""
    i_q, i_k, n_q, n_k = i_node * 0, i_node * 0, i_node * 0 + NQ, i_node * 0 + NK
    if CAUSAL:
        i_depth = 0
        while ((i_node + 1) >> (i_depth + 1)) > 0:
            i_depth += 1
        n_k = NK >> (i_depth + 1)
        n_q = n_k
        i_k = (i_node + 1 - (1 << i_depth)) * 2 * n_k
        i_q = i_k + n_k
    return i_q, i_k, n_q, n_k


@triton.jit
def queries_of(i_node, i_c, NQ, NK, CQ, CAUSAL: tl.constexpr):
    """Where the queries of cluster i_c of a node begin and end."""
    i_q, _, n_q, _ = node_at(i_node, NQ, NK, CAUSAL)
    size = tl.cdiv(n_q, CQ)
    i_first = i_q + i_c * size
    return i_first, tl.minimum(i_first + size, i_q + n_q)


@triton.jit
def tile_at(i_tile, BLOCK, BM: tl.constexpr):
    """The first position of a tile of BM, and the end of its exact block; tiles end where blocks do."""
    tiles = tl.cdiv(BLOCK, BM)
    i_block = i_tile // tiles
    return i_block * BLOCK + (tiles - 1 - i_tile % tiles) * BM, (i_block + 1) * BLOCK  # the longest first


@triton.jit
def tile_in(i_depth, i_start, i_end, N, C, CAUSAL: tl.constexpr, BM: tl.constexpr):
    """At a depth: which node a tile is in, on which side (1: right), the start of that side, and the length of its
    clusters, and the first and last of them that the tile touches."""
    n = N
    i_side = i_start * 0 + 1
    i_from = i_start * 0
    i_node = i_start * 0
    if CAUSAL:
        n = N >> (i_depth + 1)
        i_side = i_start // n
        i_from = i_side * n
        i_node = (1 << i_depth) - 1 + i_side // 2
    size = tl.cdiv(n, C)
    i_first = (i_start - i_from) // size
    i_last = (tl.minimum(i_start + BM, i_end) - 1 - i_from) // size
    return i_node, i_side % 2, i_from, size, i_first, i_last
