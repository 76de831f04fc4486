"""Counting sort: labels to `order` and `offsets`, the contract of `Clusters`, stable and deterministic.

A chunk of labels is counted, the counts are scanned over the chunks and over the clusters, and every position
is written to: start of its cluster + members in earlier chunks + equal labels before it in its own chunk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_device, check_given
from ..common.launch import launch, target_of
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose

# Labels of a chunk at most: a histogram keeps them in registers.
LONGEST = 2048


@triton.jit
def within(b_label, C):
    """Labels of 0 .. C - 1 as they are, all others as C: without a sign those below zero are the largest."""
    return tl.minimum(b_label.to(tl.uint32), tl.cast(C, tl.uint32)).to(tl.int32)


@triton.jit
def count_labels_kernel(labels, chunk_counts, N, C, CHUNKS, BINS: tl.constexpr, BN: tl.constexpr):
    i_row, i_chunk = (tl.program_id(0) // CHUNKS).to(tl.int64), tl.program_id(0) % CHUNKS
    o_n, o_c = i_chunk * BN + tl.arange(0, BN), tl.arange(0, BINS)
    # [BN] padding (label -1) is counted as cluster C
    b_label = tl.load(labels + i_row * N + o_n, mask=o_n < N, other=0).to(tl.int32)
    b_label = within(b_label, C)
    b_count = tl.histogram(b_label, BINS, mask=o_n < N)  # [BINS]
    tl.store(chunk_counts + (i_row * CHUNKS + i_chunk) * (C + 1) + o_c, b_count, mask=o_c <= C)


@triton.jit
def scan_counts_kernel(chunk_counts, offsets, counts, C, CHUNKS, BINS: tl.constexpr, BM: tl.constexpr):
    i_row = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BINS)
    b_total = tl.zeros([BINS], dtype=tl.int32)
    for i_start in range(0, CHUNKS, BM):
        o_m = i_start + tl.arange(0, BM)
        p_count = chunk_counts + (i_row * CHUNKS + o_m[:, None]) * (C + 1) + o_c[None, :]  # [BM, BINS]
        m_count = (o_m[:, None] < CHUNKS) & (o_c[None, :] <= C)
        b_count = tl.load(p_count, mask=m_count, other=0)
        b_before = tl.cumsum(b_count, axis=0) - b_count + b_total[None, :]
        tl.store(p_count, b_before, mask=m_count)
        b_total += tl.sum(b_count, axis=0)
    b_offset = tl.cumsum(b_total, axis=0) - b_total  # [BINS]
    tl.store(offsets + i_row * (C + 1) + o_c, b_offset.to(tl.int64), mask=o_c <= C)
    tl.store(counts + i_row * C + o_c, b_total.to(tl.int64), mask=o_c < C)


@triton.jit
def scatter_kernel(
    labels, before, offsets, order, N, C, CHUNKS, CHUNK: tl.constexpr, SPAN: tl.constexpr, BN: tl.constexpr
):
    # one program: a chunk, BN positions at a time
    i_row, i_chunk = (tl.program_id(0) // CHUNKS).to(tl.int64), tl.program_id(0) % CHUNKS
    o_local = tl.arange(0, BN)
    p_before = before + (i_row * CHUNKS + i_chunk) * (C + 1)
    for i in range(0, SPAN):
        o_n = i_chunk * CHUNK + i * BN + o_local
        b_label = tl.load(labels + i_row * N + o_n, mask=o_n < N, other=0).to(tl.int32)
        b_label = within(b_label, C)
        # [BN others, BN]: a column stays in a thread, and its sum with it
        m_same = (b_label[:, None] == b_label[None, :]) & (o_n < N)[:, None]
        b_rank = tl.sum((m_same & (o_local[:, None] < o_local[None, :])).to(tl.int32), axis=0)
        b_place = tl.load(p_before + b_label) + b_rank
        b_start = tl.load(offsets + i_row * (C + 1) + b_label)
        tl.store(order + i_row * N + b_start + b_place, o_n.to(tl.int64), mask=o_n < N)
        if SPAN > 1:  # the last of equal labels counts them for the positions that follow
            b_total = tl.sum(m_same.to(tl.int32), axis=0)
            tl.debug_barrier()
            tl.store(p_before + b_label, b_place + 1, mask=(b_rank + 1 == b_total) & (o_n < N))
            tl.debug_barrier()


def sort_by_label(labels: Tensor, clusters: int, tile: Tile | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Sort positions by label.

    order[offsets[j] : offsets[j + 1]] = the positions n with labels[n] = j, ascending; padding (-1) last.

    Parameters
    ----------
    labels : [B, H, N] int64 in -1 .. clusters - 1. Others count as padding: the host sees no label.
    clusters : C, 1 or more.

    Returns
    -------
    order [B, H, N], offsets [B, H, C + 1], counts [B, H, C], all int64.

    Chunks have 128 labels, or as many as there are clusters (2,048 at most): the counts of a chunk take no more memory
    than its labels then.

    Bytes: 24 B H N for labels (twice) and order, plus 16 (C + 1) for every chunk. Operations: 128 B H N.
    """
    check_device("sort_by_label", labels)
    if clusters < 1:
        raise ValueError(f"sort_by_label: clusters is {clusters}; 1 or more is needed")
    B, H, N = labels.shape
    check_given("sort_by_label", torch.int64, labels, labels=(labels, (B, H, N)))
    labels = labels.contiguous()
    tile = choose("sort", target_of(labels), 16, 4, tile)
    chunk = max(tile.rows, min(LONGEST, power_of_two(clusters)))
    chunks = cdiv(N, chunk)
    chunk_counts = torch.empty(B * H, chunks, clusters + 1, dtype=torch.int32, device=labels.device)
    launch(
        count_labels_kernel, (B * H * chunks,), labels, chunk_counts, N, clusters, chunks,
        BINS=power_of_two(clusters + 1), BN=chunk, tile=tile,
    )  # fmt: skip
    offsets, counts = offsets_of_chunks(chunk_counts, B, H, clusters)
    return scatter(labels, chunk_counts, offsets, chunk, tile), offsets, counts


def offsets_of_chunks(
    chunk_counts: Tensor, B: int, H: int, clusters: int, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """Scan the counts of every chunk, [B * H, chunks, C + 1] int32 with the padding last, in place.

    Returns offsets [B, H, C + 1] and counts [B, H, C], int64; the counts of the chunks become the numbers of members in
    earlier chunks.
    """
    bins = power_of_two(clusters + 1)
    tile = choose("scan", target_of(chunk_counts), 16, 4, tile)
    chunks = chunk_counts.numel() // max(1, B * H * (clusters + 1))
    offsets = torch.empty(B, H, clusters + 1, dtype=torch.int64, device=chunk_counts.device)
    counts = torch.empty_like(offsets[..., 1:], memory_format=torch.contiguous_format)
    scanned = max(2, min(power_of_two(chunks, least=2), tile.cols // bins))
    launch(
        scan_counts_kernel, (B * H,), chunk_counts, offsets, counts, clusters, chunks, BINS=bins, BM=scanned, tile=tile,
    )  # fmt: skip
    return offsets, counts


def scatter(labels: Tensor, before: Tensor, offsets: Tensor, chunk: int, tile: Tile | None = None) -> Tensor:
    """The order [B, H, N] of labels counted in chunks of so many, from what `offsets_of_chunks` made of the counts,
    which are spent."""
    B, H, N = labels.shape
    tile = choose("sort", target_of(labels), 16, 4, tile)
    rows, chunks = min(tile.rows, chunk), cdiv(N, chunk)
    order = torch.empty_like(labels)
    launch(
        scatter_kernel, (B * H * chunks,), labels, before, offsets, order, N, offsets.shape[-1] - 1, chunks,
        CHUNK=chunk, SPAN=chunk // rows, BN=rows, tile=tile,
    )  # fmt: skip
    return order
