"""k-means as an operator: what its operators of attention take."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix
from ..clustering.kmeans import kmeans
from ..clustering.seeds import seeds_at


@torch.library.custom_op(add_op_namespace_prefix("clusters"), mutates_args=())
def clusters(
    x: Tensor, number: int, iterations: int, cap: float | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`number` clusters of the vectors of x [B, H, N, D], at most as many as vectors.

    iterations : of Lloyd. cap : largest ratio of a cluster's size to the mean, None for no cap. seed : of the vectors
    that are the first centroids.

    Returns the centroids [B, H, C, D], the positions sorted by cluster [B, H, N], and where each cluster begins in
    them [B, H, C + 1]. They are constants: no gradient flows through a choice.
    """
    x = x.detach()
    number = min(number, x.shape[2])
    found = kmeans(x, seeds_at(x, _places(x.shape[2], number, seed, x.device)), iterations, cap)
    _, centroids, _, order, offsets = found
    return centroids, order, offsets


@clusters.register_fake
def _(x, number, iterations, cap, seed):
    B, H, N, D = x.shape
    C = min(number, N)
    centroids = x.new_empty(B, H, C, D, dtype=torch.float32)
    return centroids, *(x.new_empty(B, H, n, dtype=torch.int64) for n in (N, C + 1))


@lru_cache(maxsize=256)
def _places(vectors: int, number: int, seed: int, device: torch.device) -> Tensor:
    """The vectors that clusters start from: distinct, drawn once for all texts of a length."""
    drawn = torch.randperm(vectors, generator=torch.Generator().manual_seed(seed))[:number]
    return drawn.sort().values.to(device)
