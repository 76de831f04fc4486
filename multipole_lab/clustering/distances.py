"""Nearest centroids, tile by tile."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# A tile of this many distances stays in a core's cache between the matrix product and the minimum.
TILE = 1 << 20


def partial_distances(x: Float[Tensor, "R N D"], centroids: Float[Tensor, "R C D"]) -> Float[Tensor, "R N C"]:
    """``|c|^2 - 2 x.c``: the squared distance less ``|x|^2``, which no comparison between centroids needs."""
    return torch.baddbmm(centroids.square().sum(-1).unsqueeze(1), x, centroids.mT, alpha=-2)


def nearest(
    x: Float[Tensor, "R N D"], centroids: Float[Tensor, "R C D"]
) -> tuple[Int[Tensor, "R N"], Float[Tensor, "R N"]]:
    """The nearest centroid of every vector, ties to the lower index, and its squared distance less ``|x|^2``."""
    R, N, _ = x.shape
    step = max(1, TILE // (R * centroids.shape[1]))
    tiles = [partial_distances(x[:, n : n + step], centroids).min(-1) for n in range(0, N, step)]
    if len(tiles) == 1:
        return tiles[0].indices, tiles[0].values
    return torch.cat([t.indices for t in tiles], -1), torch.cat([t.values for t in tiles], -1)
