"""Balanced partitions: recursive splits along the principal axis, to clusters of one size."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.clustering.checks import check_count, check_mask, check_tensor, check_vectors
from multipole_lab.clustering.clusters import Clusters, statistics_dtype
from multipole_lab.suggesting import suggesting

# Members whose squares are added up by one product of a GPU.
PART = 256


@suggesting
def balanced(
    x: Float[Tensor, "B H N D"],
    size: int = 64,
    metric: Float[Tensor, "B H D D"] | None = None,
    mask: Bool[Tensor, "B N"] | None = None,
) -> Clusters:
    """Halve along the axis of largest variance until every cluster has ``size`` members, one remainder at most.

    At each level every group is sorted along its own principal axis; the lower part, a power of two times
    ``size``, goes left and the rest right. All groups of a level are split at once.

    Parameters
    ----------
    x : [B, H, N, D]; non-finite numbers count as zero.
    size : members of a cluster, a power of two.
    metric : [B, H, D, D] symmetric positive semi-definite. Distances are then ``x^T metric x``, as the other side
        of the logits sees them: ``Q^T Q`` for keys, ``K^T K`` of centred keys for queries (ClusterAttention,
        2608.26965); see ``induced_metric``. None for the Euclidean one.
    mask : [B, N], False for padding, which gets the label -1.

    Returns
    -------
    Clusters with ``ceil(N / size)`` clusters.

    Raises
    ------
    ValueError, TypeError : wrong rank, integer tensors, an empty sequence, a size that is no power of two, a metric
        of another shape.
    """
    labels = balanced_labels(x, size, metric, mask)
    return Clusters.from_labels(x, labels, -(-x.shape[2] // size))


def balanced_labels(
    x: Float[Tensor, "B H N D"],
    size: int,
    metric: Float[Tensor, "B H D D"] | None = None,
    mask: Bool[Tensor, "B N"] | None = None,
) -> Int[Tensor, "B H N"]:
    """The labels alone of ``balanced``, of the same arguments."""
    check_vectors(x)
    check_count("size", size, 1)
    if size & (size - 1):
        raise ValueError(f"size is {size}; a power of two is needed")
    B, H, N, D = x.shape
    check_mask(mask, B, N)
    rows = torch.nan_to_num(
        x.reshape(B * H, N, D).to(statistics_dtype(x.dtype)), nan=0.0, posinf=0.0, neginf=0.0
    )
    if metric is not None:
        check_tensor(metric, "metric", "[B, H, D, D]")
        if tuple(metric.shape) != (B, H, D, D):
            raise ValueError(
                f"metric has shape {tuple(metric.shape)}; [B, H, D, D] = {[B, H, D, D]} is needed"
            )
        rows = rows @ _square_root(metric.reshape(B * H, D, D).to(rows))
    clusters = -(-N // size)
    leaves = 1 << (clusters - 1).bit_length()
    present = torch.ones(B, N, dtype=torch.bool, device=x.device) if mask is None else mask
    present = present.repeat_interleave(H, dim=0)

    # Absent members fill up to a full tree. They sort behind all others at every split, and so end in the last
    # leaves: the present ones fill theirs, but for one remainder.
    total = leaves * size
    order = torch.nn.functional.pad(
        (~present).to(torch.uint8).sort(dim=-1, stable=True).indices, (0, total - N), value=0
    )
    here = torch.arange(total, device=x.device) < present.sum(-1, keepdim=True)
    full = mask is None and total == N  # then nobody is absent, which no pass over the members need ask
    row = torch.arange(B * H, device=x.device).unsqueeze(-1)
    groups = 1
    while groups < leaves:
        shape = (B * H * groups, total // groups)
        points = rows[row, order].view(*shape, D)
        along = project(points, None if full else here.view(shape))
        if not full:
            along = along.masked_fill(~here.view(shape), torch.inf)
        swap = along.sort(dim=-1, stable=True).indices
        order = order.view(shape).gather(-1, swap).view(B * H, total)
        here = here.view(shape).gather(-1, swap).view(B * H, total)
        groups *= 2

    leaf = (torch.arange(total, device=x.device) // size).expand(B * H, total)
    labels = torch.full((B * H, N + 1), -1, device=x.device)
    labels.scatter_(-1, torch.where(here, order, N), leaf)  # the absent write into a spare place
    return labels[:, :N].reshape(B, H, N)


def project(points: Float[Tensor, "G n D"], here: Bool[Tensor, "G n"] | None) -> Float[Tensor, "G n"]:
    """Coordinates along each group's principal axis, found by power iteration on its covariance; here: None for all."""
    if here is None:
        centred = points - points.mean(1, keepdim=True)
    else:
        weight = here.unsqueeze(-1).to(points.dtype)
        mean = (points * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        centred = (points - mean) * weight
    covariance = _squares(centred)
    scale = covariance.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(points.dtype).tiny)
    power = covariance / scale[:, None, None]
    for _ in range(5):  # squaring five times is a power iteration of 32 steps
        power = power @ power
        norm = power.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=torch.finfo(points.dtype).tiny)
        power = power / norm[:, None, None]
    # Any column of a rank-one matrix is its axis; the longest is the best conditioned.
    column = power.square().sum(1).argmax(-1)
    axis = power.gather(2, column[:, None, None].expand(-1, power.shape[1], 1))
    # Coordinates that overflowed must still sort before the infinity that marks the absent.
    return (centred @ axis).squeeze(-1).nan_to_num(nan=0.0)


def _squares(x: Float[Tensor, "G n D"]) -> Float[Tensor, "G D D"]:
    """``X^T X`` of every group. A GPU does a few long products tile after tile: there in parts, side by side."""
    G, n, D = x.shape
    if not x.is_cuda or n % PART:
        return x.mT @ x
    parts = x.view(G * n // PART, PART, D)
    return torch.bmm(parts.mT, parts).view(G, n // PART, D, D).sum(1)


@suggesting
def induced_metric(
    other: Float[Tensor, "B Ho N D"], heads: int, centre: bool = False
) -> Float[Tensor, "B H D D"]:
    """``X^T X`` of the other side's vectors, summed over the query heads of a group or repeated over them.

    Distances between keys matter as far as queries see them, ``(k - k')^T Q^T Q (k - k')``, and the other way
    round with centred keys, for a shift common to all keys leaves the softmax as it is.

    Raises
    ------
    ValueError, TypeError : no tensor [B, Ho, N, D], heads of which neither number is a multiple of the other.
    """
    check_vectors(other, "other")
    check_count("heads", heads, 1)
    if max(heads, other.shape[1]) % min(heads, other.shape[1]):
        raise ValueError(
            f"heads is {heads}; a multiple or a divisor of other's {other.shape[1]} heads is needed"
        )
    x = other.to(statistics_dtype(other.dtype))
    if centre:
        x = x - x.mean(2, keepdim=True)
    gram = x.mT @ x
    B, H, D, _ = gram.shape
    if heads <= H:
        return gram.view(B, heads, H // heads, D, D).sum(2)
    return gram.repeat_interleave(heads // H, dim=1)


def _square_root(metric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(metric)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
