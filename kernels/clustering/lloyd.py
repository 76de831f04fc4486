"""One pass of k-means in two launches: nearest centroids and the sums of their members together, then the means.

A program labels a run of tiles and adds each tile to the sums of its clusters by a product with ones and zeros; the
parts of all programs are added in a fixed order, so that the result does not depend on which program came first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import Tile, choose
from .assign import ABOVE, FARTHEST, check_centroids, finite, row_min
from .centroids import restart_empty
from .sort import offsets_of_chunks, scatter

# The most numbers that the sums of one program may have, to stay in registers, by bytes per element. A product of fp32
# holds its operands in three parts.
LARGEST = {2: 8192, 4: 2048}


@triton.jit
def split(b_c, m_c, DTYPE: tl.constexpr):
    """Centroids b_c [BINS, BD] as the sum of two of the dtype, and |c|^2, which makes the absent ones far."""
    b_high = b_c.to(DTYPE)
    return b_high, (b_c - b_high.to(tl.float32)).to(DTYPE), tl.where(m_c, tl.sum(b_c * b_c, axis=1), FARTHEST)


@triton.jit
def nearest_of_all(b_x, b_high, b_low, b_norm, BINS: tl.constexpr, PRECISION: tl.constexpr):
    """For vectors b_x [BM, BD] and all centroids, as `split` gives them: the nearest, ties to the lower, |x - c|^2."""
    b_dot = tl.dot(b_x, tl.trans(b_high), input_precision=PRECISION)
    if b_x.dtype != tl.float32:
        b_dot = tl.dot(b_x, tl.trans(b_low), b_dot)
    b_distance = b_norm[None, :] - 2.0 * b_dot  # [BM, BINS]
    b_wide = b_x.to(tl.float32)
    b_square = tl.sum(b_wide * b_wide, axis=1)
    if b_x.dtype == tl.float32:
        b_distance = tl.where(tl.abs(b_distance) < FARTHEST, b_distance, FARTHEST)
    else:
        b_distance += (b_square + ABOVE * b_square)[:, None]
        b_square = -ABOVE * b_square
    b_best, b_label = row_min(b_distance, tl.arange(0, BINS), BINS, b_x.dtype != tl.float32)
    return b_label, b_best + b_square


@triton.jit
def lloyd_kernel(
    x, centroids, valid, labels, distances, sums, members, chunk_counts, halves, x_strides, sizes, D: tl.constexpr,
    BD: tl.constexpr, BINS: tl.constexpr, BM: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr,
    COUNT: tl.constexpr, SUM: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: SPAN chunks of BM vectors of one head
    H, N, C, PARTS, SPAN, CHUNKS = sizes
    i_row, i_part = (tl.program_id(0) // PARTS).to(tl.int64), tl.program_id(0) % PARTS
    i_b, i_h = i_row // H, i_row % H
    o_m, o_bin = tl.arange(0, BM), tl.arange(0, BINS)
    p_x = of_head(x, x_strides, i_b, i_h)
    m_c = o_bin < C
    # [BINS, BD] all centroids stay with the program; in half precision as a sum of two, as in `assign`
    b_c = load_rows(centroids, i_row * C + o_bin, m_c, D, D, BD)
    b_high, b_low, b_norm = split(b_c, m_c, x.dtype.element_ty)
    if KEEP:  # as `assign.halves` does
        high, low, norm = halves
        if i_part == 0:
            store_rows(high, i_row * C + o_bin, m_c, D, b_high, D, BD)
            store_rows(low, i_row * C + o_bin, m_c, D, b_low, D, BD)
            tl.store(norm + i_row * C + o_bin, 0.5 * b_norm, mask=m_c)
    b_sum = tl.zeros([BINS, BD], dtype=tl.float32)
    b_members = tl.zeros([BINS], dtype=tl.int32)
    for i_tile in range(i_part * SPAN, tl.minimum((i_part + 1) * SPAN, CHUNKS)):
        o_n = i_tile * BM + o_m
        m_n = o_n < N
        b_x = finite(load_rows(p_x, o_n.to(tl.int64), m_n, x_strides[2], D, BD))
        b_label, b_best = nearest_of_all(b_x, b_high, b_low, b_norm, BINS, PRECISION)
        b_label = tl.minimum(b_label, C - 1)  # where all distances overflow
        m_valid = m_n
        if MASKED:
            m_valid = m_n & (tl.load(valid + i_b * N + o_n, mask=m_n, other=0) != 0)
        b_label = tl.where(m_valid, b_label, -1)
        tl.store(labels + i_row * N + o_n, b_label.to(labels.dtype.element_ty), mask=m_n)
        if FAR:
            b_best = tl.where(m_valid, b_best, float("-inf"))
            tl.store(distances + i_row * N + o_n, b_best, mask=m_n)
        b_count = tl.histogram(tl.maximum(b_label, 0), BINS, mask=m_valid)
        if SUM:
            m_member = o_bin[:, None] == b_label[None, :]  # [BINS, BM]
            b_sum = tl.dot(m_member.to(b_x.dtype), b_x, b_sum, input_precision=PRECISION)
            b_members += b_count
        if COUNT:
            p_count = chunk_counts + (i_row * CHUNKS + i_tile) * (C + 1)
            tl.store(p_count + o_bin, b_count, mask=o_bin < C)
            tl.store(p_count + C, tl.sum((m_n & (b_label < 0)).to(tl.int32)))
    o_part = (i_row * PARTS + i_part) * BINS + o_bin
    if SUM:
        store_rows(sums, o_part, o_bin >= 0, BD, b_sum, BD, BD)
    tl.store(members + o_part, b_members)  # without sums zeros, for those who count after this pass


@triton.jit
def lloyd_means_kernel(
    sums, members, counts, means, sizes,
    D: tl.constexpr, BD: tl.constexpr, BINS: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    # one program: BC clusters of one head, BP parts at a time
    C, PARTS, BLOCKS = sizes
    i_row, i_block = (tl.program_id(0) // BLOCKS).to(tl.int64), tl.program_id(0) % BLOCKS
    o_e, o_p = tl.arange(0, BC * BD), tl.arange(0, BP)
    o_c = i_block * BC + tl.arange(0, BC)
    b_sum = tl.zeros([BP, BC * BD], dtype=tl.float32)
    b_count = tl.zeros([BP, BC], dtype=tl.int32)
    for i in range(0, PARTS, BP):
        o_part = i_row * PARTS + i + o_p
        m_part = i + o_p < PARTS
        p_sum = sums + (o_part[:, None] * BINS + i_block * BC) * BD + o_e[None, :]
        b_sum += tl.load(p_sum, mask=m_part[:, None], other=0.0)
        b_count += tl.load(members + o_part[:, None] * BINS + o_c[None, :], mask=m_part[:, None], other=0)
    b_total = tl.sum(b_count, axis=0)  # [BC]
    b_mean = tl.reshape(tl.sum(b_sum, axis=0), [BC, BD]) / tl.maximum(b_total, 1).to(tl.float32)[:, None]
    store_rows(means, i_row * C + o_c, o_c < C, D, b_mean, D, BD)
    tl.store(counts + i_row * C + o_c, b_total.to(tl.int64), mask=o_c < C)


def fits(x: Tensor, clusters: int) -> bool:
    """Whether a pass over these vectors can keep the sums of all clusters in registers."""
    size = power_of_two(clusters) * power_of_two(x.shape[-1])
    return size <= LARGEST[x.element_size()] and target_of(x).shared_kb >= 99


def lloyd(
    x: Tensor,
    centroids: Tensor,
    valid: Tensor | None = None,
    restart: bool = True,
    sort: bool = False,
    means: bool = True,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Label every vector with its nearest centroid and return the means of what each got.

    labels[n] = argmin_j |x_n - c_j|^2, ties to the lower index; c'_j = mean of the x_n with labels[n] = j, and with
    ``restart`` the e-th empty cluster moves to the e-th farthest vector. Non-finite numbers count as zero.

    Parameters
    ----------
    x : [B, H, N, D] fp16, bf16 or fp32, any strides. `fits` says whether C and D
        are small enough.
    centroids : [B, H, C, D] fp32. valid : [B, N] bool, False for padding, which gets label -1.
    sort : also return the order of the vectors by label. means : False with ``sort``, where no means are wanted: None.

    Returns
    -------
    labels [B, H, N], means [B, H, C, D] fp32, counts [B, H, C], and with ``sort`` order [B, H, N] and offsets
    [B, H, C + 1], both None without; integers are int64.

    Launches: 2, one more to restart and 2 more to sort. Bytes: x once, 12 B H N written, C D fp32 sums
    for every program. Operations: 4 B H N C D (6 in half precision, where a centroid is the sum of two halves).
    """
    check_tensors("lloyd", x=x)
    B, H, N, D = x.shape
    C = check_centroids("lloyd", x, centroids)
    check_given("lloyd", torch.bool, x, valid=(valid, (B, N)))
    x, centroids = row_strided(x), centroids.float().contiguous()
    BD, BINS = power_of_two(D), power_of_two(C)
    tile = choose("lloyd", target_of(x), BD, x.element_size(), tile)
    chunks = cdiv(N, tile.rows)
    span, parts = spans(chunks, B * H)

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    labels, distances = empty(B, H, N), empty(B, H, N, dtype=torch.float32)
    sums = empty(B * H * parts, BINS, BD, dtype=torch.float32)
    members, chunk_counts = (empty(B * H, n, dtype=torch.int32) for n in (parts * BINS, chunks * (C + 1)))
    launch(
        lloyd_kernel, (B * H * parts,),
        x, centroids, x if valid is None else valid.contiguous(), labels, distances, sums, members, chunk_counts,
        (sums, sums, sums), x.stride()[:3], (H, N, C, parts, span, chunks), D,
        BD=BD, BINS=BINS, BM=tile.rows, MASKED=valid is not None, FAR=restart, COUNT=sort, SUM=means, KEEP=False,
        PRECISION=fp32_precision(x), tile=tile,
    )  # fmt: skip
    if not means:
        offsets, counts = offsets_of_chunks(chunk_counts, B, H, C)
        return labels, None, counts, scatter(labels, chunk_counts, offsets, tile.rows), offsets
    found, counts = empty(B, H, C, D, dtype=torch.float32), empty(B, H, C)
    mean_tile = choose("means", target_of(x), BD, x.element_size())
    blocks = cdiv(C, mean_tile.rows)
    launch(
        lloyd_means_kernel, (B * H * blocks,), sums, members, counts, found, (C, parts, blocks), D,
        BD=BD, BINS=BINS, BC=mean_tile.rows, BP=mean_tile.cols, tile=mean_tile,
    )  # fmt: skip
    if restart:
        restart_empty(x, labels, distances, counts, found)
    if not sort:
        return labels, found, counts, None, None
    offsets, _ = offsets_of_chunks(chunk_counts, B, H, C)
    order = scatter(labels, chunk_counts, offsets, tile.rows)
    return labels, found, counts, order, offsets
