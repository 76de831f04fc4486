"""The last assignment of k-means under a cap where clusters are few: nearest centroids, rounds, members and means.

Labels are a byte each between the launches. What `assign`, two sorts, `capped_rounds` and `cluster_means` do in some
twenty launches is done in four, for a graph's nodes wait for each other: the time of few vectors is that of launches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.graphs import moment
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import choose
from . import lloyd
from .assign import Halves, check_centroids
from .capped import Waiting, further_rounds, rounds_of
from .crowds import crowds_kernel
from .gather import gather_kernel

# Every cluster reads all labels, and -1 beside them is a byte.
MOST = 128


def fits(x: Tensor, clusters: int) -> bool:
    """Whether there are vectors, and few enough clusters for labels of a byte and a program that holds all of them."""
    return x.shape[2] > 0 and clusters <= MOST and lloyd.fits(x, clusters)


def capped_few(
    x: Tensor, centroids: Tensor, cap: float, valid: Tensor | None = None, means: bool = True
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor]:
    """Assign every vector to its nearest cluster with room, in the rounds of `capped_rounds`, where `fits`.

    Parameters
    ----------
    x : [B, H, N, D], centroids : [B, H, C, D] fp32, valid : [B, N] bool, False for padding.
    cap : a cluster has at most ceil(cap * n / C) members, n the valid vectors.
    means : whether labels and means are wanted; None stands in their places otherwise.

    Returns
    -------
    labels [B, H, N], means [B, H, C, D] fp32, counts [B, H, C], order [B, H, N], offsets [B, H, C + 1]; integers are
    int64.

    Launches: 4, and 2 for each of `rounds_of` but the first. Bytes: x once, and once more for means; 5 B H N of labels
    and distances, one byte of every label once or twice for every cluster (cache), 8 or 16 B H N written.
    Operations: 4 B H N C D (6 in half precision), and some ten for every label and cluster.
    """
    check_tensors("capped_few", x=x)
    B, H, N, D = x.shape
    C = check_centroids("capped_few", x, centroids)
    check_given("capped_few", torch.bool, x, valid=(valid, (B, N)))
    x, centroids, masked = row_strided(x), centroids.float().contiguous(), valid is not None
    BD, BINS, target = power_of_two(D), power_of_two(C), target_of(x)

    def pick(kernel: str):
        return choose(kernel, target, BD, x.element_size())

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    tile, rounds = pick("lloyd"), rounds_of(N)
    chunks = cdiv(N, tile.rows)
    span, parts = spans(chunks, B * H)
    labels, distances = empty(B, H, N, dtype=torch.int8), empty(B, H, N, dtype=torch.float32)
    zeros = empty(parts * BINS * B * H, dtype=torch.int32)  # by the pass, and more than rounds can be
    chunk_counts = empty(B * H, chunks * (C + 1), dtype=torch.int32)
    split = Halves(*(empty(B, H, C, D, dtype=x.dtype) for _ in range(2)), empty(B, H, C, dtype=torch.float32))
    launch(
        lloyd.lloyd_kernel, (B * H * parts,), x, centroids, valid.contiguous() if masked else x, labels, distances,
        distances, zeros, chunk_counts, tuple(split), x.stride()[:3], (H, N, C, parts, span, chunks), D,
        BD=BD, BINS=BINS, BM=tile.rows, MASKED=masked, FAR=True, COUNT=True, SUM=False, KEEP=True,
        PRECISION=fp32_precision(x), tile=tile,
    )  # fmt: skip
    capacity = (cap * valid.sum(-1).double() / C).ceil().to(torch.int32) if masked else zeros
    alike = 0 if masked else math.ceil(cap * N / C)
    room = empty(B, H, C, dtype=torch.int32)
    waiting = Waiting.empty(x, zeros[: (rounds + 1) * B * H].view(rounds + 1, B * H))
    tile = pick("crowds")
    launch(
        crowds_kernel, (B * H * C,), labels, distances, chunk_counts, capacity, room, waiting.keys, waiting.positions,
        waiting.counts, (H, N, C, chunks, alike, B * H), BS=min(tile.rows, power_of_two(N)), BN=tile.cols,
        MASKED=masked, tile=tile,
    )  # fmt: skip
    moment()
    further_rounds(x, split, labels, room, waiting)
    order, offsets, counts = empty(B, H, N), empty(B, H, C + 1), empty(B, H, C)
    wanted = (empty(B, H, N), empty(B, H, C, D, dtype=torch.float32)) if means else (order, distances)
    tile = pick("gather")
    launch(
        gather_kernel, (B * H * (C + masked),), x, labels, capacity, room, order, offsets, counts, *wanted,
        x.stride()[:3], (H, N, C, alike), D, BD=BD, BINS=BINS, BS=min(tile.rows, power_of_two(N)), BM=tile.cols,
        MASKED=masked, MEANS=means, tile=tile,
    )  # fmt: skip
    return *(wanted if means else (None, None)), counts, order, offsets
