"""Nearest centroids, tile by tile."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# A tile of this many distances stays in a core's cache between the matrix product and the minimum.
TILE = 1 << 19


def partial_distances(x: Float[Tensor, "R N D"], centroids: Float[Tensor, "R C D"]) -> Float[Tensor, "R N C"]:
    """``|c|^2 - 2 x.c``: the squared distance less ``|x|^2``, which no comparison between centroids needs."""
    return torch.baddbmm(centroids.square().sum(-1).unsqueeze(1), x, centroids.mT, alpha=-2)


def nearest(
    x: Float[Tensor, "R N D"], centroids: Float[Tensor, "R C D"]
) -> tuple[Int[Tensor, "R N"], Float[Tensor, "R N"]]:
    """The nearest centroid of every vector, ties to the lower index, and its squared distance less ``|x|^2``."""
    R, N, _ = x.shape
    step = max(1, TILE // (R * centroids.shape[1]))
    tiles = [smallest(partial_distances(x[:, n : n + step], centroids)) for n in range(0, N, step)]
    index, distance = (
        part[0] if len(part) == 1 else torch.cat(part, -1) for part in zip(*tiles, strict=True)
    )
    return index, distance


def smallest(numbers: Float[Tensor, "*batch C"]) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Where the first of the smallest numbers along the last dimension stands, and that number.

    It is ``min(-1)``, which finds places one number at a time on a CPU; there these steps, which take eight at once,
    need half of its time. ``numbers`` is used up. Among NaNs any place may be named.
    """
    if numbers.device.type != "cpu":
        least, place = numbers.min(-1)
        return place, least
    C = numbers.shape[-1]
    least = numbers.amin(-1, keepdim=True)
    from_the_end = torch.arange(C, 0, -1, dtype=numbers.dtype)
    place = C - numbers.eq_(least).mul_(from_the_end).amax(-1).long()
    return place.clamp_(max=C - 1), least.squeeze(-1)
