"""Cluster one block of keys, on one or two levels, into contiguous order."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.capped import capped_assignment
from multipole_lab.clustering.clusters import member_mean, member_sum, statistics_dtype
from multipole_lab.clustering.distances import nearest
from multipole_lab.clustering.kmeans import count_members, lloyd_step


class Part(NamedTuple):
    """One level of one block, R = B * Hk rows: as ``state.Level``, but ``first`` counts from its start.

    ``spread`` is the variance of the keys under a cluster, the mean over coordinates.
    """

    keys: Float[Tensor, "R C D"]
    values: Float[Tensor, "R C Dv"]
    tokens: Int[Tensor, "R C"]
    first: Int[Tensor, "R C"]
    members: Int[Tensor, "R C"]
    spread: Float[Tensor, "R C"]


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
    """Lloyd's k-means from ``seeds``; clusters of clusters; members made contiguous on both levels.

    Parameters
    ----------
    x, v : keys (in the frame that is clustered) and values.
    valid : False for padding, which joins no cluster and goes behind them.
    seeds : C starting centroids, multiplied by ``weights``.
    iterations, cap : as in ``kmeans``. A cap keeps every cluster small enough to fit a token budget.
    branch : fine clusters per coarse one, or None for a single level.
    weights : factors of the coordinates in the distance (``metric.py``); None for the plain one.
    outliers : so many keys, those farthest from the means of the clusters, become clusters of their own.

    Returns
    -------
    order [R, n] : which key comes to which place of the block.
    parts : the fine level and, with ``branch``, the coarse one. Fine clusters are sorted by their coarse one.
    """
    dtype = statistics_dtype(x.dtype)
    if weights is not None:
        x = x * weights
    rows = torch.nan_to_num(x.to(dtype), nan=0.0, posinf=0.0, neginf=0.0)
    C = seeds.shape[1]
    labels = assign(rows, seeds.to(dtype), valid, iterations, cap)
    if outliers:
        distance = nearest(rows, member_mean(rows, labels, count_members(labels, C)))[1]
        labels = stand_alone(labels, distance + rows.square().sum(-1), C, outliers)
        C += outliers
    tokens = count_members(labels, C)
    means = member_mean(x, labels, tokens)
    parts = []
    if branch is not None:
        parents = parents_of(means, tokens, branch, cap)
        by_parent, coarse = sort_by(parents, math.ceil(C / branch))
        rank = torch.empty_like(by_parent).scatter_(
            1, by_parent, torch.arange(C, device=x.device).expand_as(by_parent)
        )
        labels = torch.where(labels < 0, labels, rank.gather(1, labels.clamp(min=0)))
        tokens, means = tokens.gather(1, by_parent), take(means, by_parent)
        parents = parents.gather(1, by_parent)
    order, members = sort_by(labels, C)
    sums = member_sum(v, labels, C)
    squares = member_sum(x.to(dtype).square().sum(-1, keepdim=True), labels, C)
    parts.append(_part(means, sums / tokens.clamp(min=1).unsqueeze(-1), tokens, members, squares))
    if branch is not None:
        C1 = coarse.shape[1]
        weight = tokens.unsqueeze(-1).to(dtype)
        held = count_tokens(tokens, parents, C1)
        share = held.clamp(min=1).unsqueeze(-1)
        keys = member_sum(means * weight, parents, C1) / share
        squares = member_sum(squares, parents, C1)
        parts.append(_part(keys, member_sum(sums, parents, C1) / share, held, coarse, squares))
    if weights is not None:
        parts = [part._replace(keys=part.keys / weights) for part in parts]
    return order, parts


def stand_alone(
    labels: Int[Tensor, "*R n"], distances: Float[Tensor, "*R n"], clusters: int, outliers: int
) -> Int[Tensor, "*R n"]:
    """Labels where the keys of the largest distances have one of their own, from ``clusters`` on.

    A sharp key among many is missed: their mean says nothing of it. Padding, of label -1, stays what it is.
    """
    far = distances.masked_fill(labels < 0, -1).topk(outliers, -1).indices
    own = torch.arange(clusters, clusters + outliers, device=labels.device).expand_as(far)
    return labels.scatter(-1, far, torch.where(labels.gather(-1, far) < 0, -1, own))


def assign(
    x: Float[Tensor, "R n D"],
    centroids: Float[Tensor, "R C D"],
    valid: Bool[Tensor, "R n"] | None,
    iterations: int,
    cap: float | None,
) -> Int[Tensor, "R n"]:
    """Labels after ``iterations`` Lloyd steps, -1 for padding."""
    for _ in range(iterations):
        centroids = lloyd_step(x, centroids, valid)
    labels = nearest(x, centroids)[0] if cap is None else capped_assignment(x, centroids, cap, valid)
    return labels if valid is None else labels.masked_fill(~valid, -1)


def parents_of(
    means: Float[Tensor, "R C D"], tokens: Int[Tensor, "R C"], branch: int, cap: float | None
) -> Int[Tensor, "R C"]:
    """The coarse cluster of every fine one, -1 for empty ones."""
    C = means.shape[1]
    coarse = math.ceil(C / branch)
    means = torch.nan_to_num(means, nan=0.0, posinf=0.0, neginf=0.0)
    held = tokens > 0
    seeds = means[:, torch.arange(coarse, device=means.device) * C // coarse]
    return assign(means, seeds, None if bool(held.all()) else held, 2, cap)


def sort_by(labels: Int[Tensor, "R n"], clusters: int) -> tuple[Int[Tensor, "R n"], Int[Tensor, "R C"]]:
    """A stable sort: the order that makes every cluster contiguous (-1 last), and the cluster sizes."""
    order = torch.where(labels < 0, clusters, labels).to(torch.int32).sort(dim=-1, stable=True).indices
    return order, count_members(labels, clusters)


def take(x: Float[Tensor, "R n D"], order: Int[Tensor, "R m"]) -> Float[Tensor, "R m D"]:
    """Vectors of every row in another order."""
    R, n, D = x.shape
    index = order + torch.arange(R, device=x.device).unsqueeze(-1) * n  # whole vectors move at once
    return x.reshape(R * n, D).index_select(0, index.view(-1)).view(R, -1, D)


def count_tokens(tokens: Int[Tensor, "R C"], parents: Int[Tensor, "R C"], coarse: int) -> Int[Tensor, "R C1"]:
    """How many keys lie under every coarse cluster."""
    held = torch.zeros(tokens.shape[0], coarse + 1, dtype=tokens.dtype, device=tokens.device)
    return held.scatter_add_(1, torch.where(parents < 0, coarse, parents), tokens)[:, :coarse]


def _part(keys: Tensor, values: Tensor, tokens: Tensor, members: Tensor, squares: Tensor) -> Part:
    """``squares`` [R, C, 1] are the sums of the squared norms of all keys under a cluster."""
    first = members.cumsum(-1) - members
    spread = spread_of(squares.squeeze(-1), tokens, keys)
    return Part(keys, values, tokens.int(), first.int(), members.int(), spread)


def spread_of(
    squares: Float[Tensor, "R C"], tokens: Int[Tensor, "R C"], means: Float[Tensor, "R C D"]
) -> Float[Tensor, "R C"]:
    """The variance under every cluster, the mean over coordinates, from the sum of its keys' squared norms."""
    inertia = squares - tokens * means.square().sum(-1)
    return inertia.clamp(min=0) / (tokens.clamp(min=1) * means.shape[-1])
