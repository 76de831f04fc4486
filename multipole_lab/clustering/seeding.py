"""Where k-means starts."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.suggesting import check_choice

INITS = ("random", "strided", "k-means++")


def seed_centroids(
    x: Float[Tensor, "R N D"],
    clusters: int,
    init: str | Float[Tensor, "B H C D"],
    seed: int,
    valid: Bool[Tensor, "R N"] | None,
) -> Float[Tensor, "R C D"]:
    """Starting centroids: C vectors of every row, or the ones given."""
    R, N, D = x.shape
    if isinstance(init, Tensor):
        if init.numel() != R * clusters * D or init.shape[-2:] != (clusters, D):
            raise ValueError(f"init has shape {tuple(init.shape)}; [B, H, {clusters}, {D}] is needed")
        return init.reshape(R, clusters, D).to(x)
    check_choice("init", init, INITS, more=" or a tensor")
    # The generator is the CPU's on every device, so that one seed gives one result.
    generator = torch.Generator().manual_seed(seed)
    if init == "k-means++":
        return _plus_plus(x, clusters, generator, valid)
    if valid is None:
        return x.index_select(1, start_places(N, clusters, init, seed, x.device))
    queue = torch.arange(N) if init == "strided" else torch.randperm(N, generator=generator)
    index = _among_valid(queue.to(x.device), valid, clusters, strided=init == "strided")
    return x.gather(1, index.unsqueeze(-1).expand(R, clusters, D))


# The places that CUDA graphs read: they must stay where they are for as long as there may be one.
_IN_GRAPHS: dict[tuple[object, ...], Tensor] = {}


def start_places(
    vectors: int, clusters: int, init: str, seed: int, device: torch.device
) -> Int[Tensor, " C"]:
    """Where the seeds stand."""
    key = vectors, clusters, init, seed, device
    if key in _IN_GRAPHS:
        return _IN_GRAPHS[key]
    places = _drawn(*key)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _IN_GRAPHS[key] = places
    return places


@lru_cache(maxsize=256)
def _drawn(vectors: int, clusters: int, init: str, seed: int, device: torch.device) -> Int[Tensor, " C"]:
    """Where the seeds stand. Kept, for it depends on sizes alone: a device then never waits for the host's draw."""
    if init == "strided":
        places = torch.arange(clusters) * vectors // clusters
    else:
        places = (
            torch.randperm(vectors, generator=torch.Generator().manual_seed(seed))[:clusters].sort().values
        )
    return places.to(device)


def _among_valid(queue, valid, clusters, strided):
    """The first valid positions of the queue, or strides through them; distinct while C <= valid."""
    count = valid.sum(-1, keepdim=True)
    # A stable sort puts the valid positions first and keeps their order.
    positions = queue[(~valid)[:, queue].to(torch.uint8).sort(dim=-1, stable=True).indices]
    place = torch.arange(clusters, device=valid.device)
    if strided:
        return positions.gather(1, place * count // clusters)
    return positions.gather(1, place % count.clamp(min=1)).sort(-1).values


def _plus_plus(x, clusters, generator, valid):
    """k-means++ (Arthur and Vassilvitskii 2007): each next seed with probability proportional to its distance^2."""
    R, N, _ = x.shape
    weight = torch.ones(R, N, dtype=x.dtype, device=x.device) if valid is None else valid.to(x.dtype)
    rows = torch.arange(R, device=x.device)
    closest = weight.clone()
    chosen = []
    for c in range(clusters):
        draw = torch.rand(R, 1, generator=generator, dtype=torch.float64).to(x.device)
        cumulative = closest.double().cumsum(-1)
        index = (
            torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True).clamp(max=N - 1).squeeze(-1)
        )
        chosen.append(x[rows, index])
        distance = (x - chosen[-1].unsqueeze(1)).square().sum(-1) * weight
        closest = distance if c == 0 else torch.minimum(closest, distance)
    return torch.stack(chosen, 1)
