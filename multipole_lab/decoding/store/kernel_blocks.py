"""``cluster_block`` by the Triton kernels: many blocks at once, and nothing that the host waits for.

It starts some five hundred kernels, which takes the host longer than the device takes for a short text. The layers of
a model ask for the same shapes one after the other, so from the third one on it is one CUDA graph.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.attention.calls.replay import replayed
from multipole_lab.decoding.store.blocks import Part, spread_of, stand_alone
from multipole_lab.kernels.clustering.assign import assign
from multipole_lab.kernels.clustering.centroids import cluster_means
from multipole_lab.kernels.clustering.kmeans import kmeans
from multipole_lab.kernels.clustering.sort import sort_by_label

# The fewest numbers of a vector that the kernels take; squared norms are laid out in vectors of that size.
LEAST = 16
# Bytes of keys and values from which on the device takes longer than the host: a graph would only hold memory.
LARGE = 1 << 28


@torch.no_grad()
def cluster_block(
    x: Float[Tensor, "R n D"],
    v: Float[Tensor, "R n Dv"],
    valid: Bool[Tensor, "R n"] | None,
    seeds: Float[Tensor, "R C D"],
    iterations: int,
    cap: float | None,
    branch: int | None,
    weights: Float[Tensor, "R 1 D"] | None = None,
    outliers: int = 0,
) -> tuple[Int[Tensor, "R n"], list[Part]]:
    """What ``blocks.cluster_block`` returns of the same arguments, to rounding; of equal distances, either cluster.

    In half precision the products of ``x`` and ``weights`` are rounded to it. That can move a key between clusters as
    near as that; the means and spreads are those of the keys as they are.
    """
    tensors = {"x": x, "v": v, "seeds": seeds, "valid": valid, "weights": weights}
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    sizes = {"iterations": iterations, "cap": cap, "branch": branch, "outliers": outliers}

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict.fromkeys(("valid", "weights")) | dict(zip(given, tensors, strict=True))
        order, parts = _cluster_block(**named, **sizes)
        return order, *(tensor for part in parts for tensor in part)

    if x.nbytes + v.nbytes > LARGE:
        order, *found = flat(*given.values())
    else:
        name = "cluster_block", tuple(given), *sizes.values()
        order, *found = replayed(name, flat, *given.values())
    each = len(Part._fields)
    return order, [Part(*found[i : i + each]) for i in range(0, len(found), each)]


def _cluster_block(
    x: Float[Tensor, "R n D"],
    v: Float[Tensor, "R n Dv"],
    seeds: Float[Tensor, "R C D"],
    valid: Bool[Tensor, "R n"] | None,
    weights: Float[Tensor, "R 1 D"] | None,
    iterations: int,
    cap: float | None,
    branch: int | None,
    outliers: int,
) -> tuple[Int[Tensor, "R n"], list[Part]]:
    C = seeds.shape[1]
    wide = x.float() if weights is None else x.float() * weights
    rows = _one_head(wide.to(x.dtype))
    labels, means, *_ = kmeans(rows, _one_head(seeds.float()), iterations, cap, valid)
    if outliers:
        labels = stand_alone(labels, assign(rows, means, valid)[1], C, outliers)
        C += outliers
    parents = None
    if branch is not None:
        labels, parents = _by_parent(x, labels, C, branch, cap, weights)
    order, offsets, _ = sort_by_label(labels, C)
    squares = wide.square().sum(-1, keepdim=True).expand(*wide.shape[:2], LEAST)
    sources = x, v, squares
    parts = [_part(sources, order, offsets, offsets[..., :-1], offsets.diff(dim=-1), weights)]
    if parents is not None:  # the keys of a coarse cluster lie together, too
        first, members = parents[..., :-1], parents.diff(dim=-1)
        parts.append(_part(sources, order, offsets.gather(-1, parents), first, members, weights))
    return order.squeeze(1), parts


def _one_head(x: Tensor) -> Tensor:
    """Rows as the kernels take them: every row a batch entry of one head, with a mask of its own."""
    return x.unsqueeze(1)


def _by_parent(
    x: Float[Tensor, "R n D"],
    labels: Int[Tensor, "R 1 n"],
    C: int,
    branch: int,
    cap: float | None,
    weights: Float[Tensor, "R 1 D"] | None,
) -> tuple[Int[Tensor, "R 1 n"], Int[Tensor, "R 1 C2"]]:
    """Labels counted so that the fine clusters of a coarse one follow each other; where each coarse one starts."""
    order, offsets, counts = sort_by_label(labels, C)
    means = cluster_means(_one_head(x), order, offsets)
    if weights is not None:
        means = means * weights.unsqueeze(1)
    coarse = math.ceil(C / branch)
    seeds = means[:, :, torch.arange(coarse, device=x.device) * C // coarse]
    *_, by_parent, starts = kmeans(means.to(x.dtype), seeds, 2, cap, (counts > 0).squeeze(1))
    places = torch.arange(C, device=x.device).expand_as(by_parent)
    rank = torch.empty_like(by_parent).scatter_(-1, by_parent, places)
    return torch.where(labels < 0, labels, rank.gather(-1, labels.clamp(min=0))), starts


def _part(
    sources: tuple[Tensor, Tensor, Tensor],
    order: Int[Tensor, "R 1 n"],
    offsets: Int[Tensor, "R 1 C1"],
    first: Int[Tensor, "R 1 C"],
    members: Int[Tensor, "R 1 C"],
    weights: Float[Tensor, "R 1 D"] | None,
) -> Part:
    """One level, from where the keys of its clusters start in ``order``; sources are keys, values, squared norms."""
    keys, values, squares = (
        cluster_means(_one_head(source), order, offsets, raw=True).squeeze(1) for source in sources
    )
    tokens = offsets.diff(dim=-1).squeeze(1)
    seen = keys if weights is None else keys * weights
    spread = spread_of(squares[..., 0] * tokens, tokens, seen)
    return Part(keys, values, tokens.int(), first.squeeze(1).int(), members.squeeze(1).int(), spread)
