"""How good a partition is: inertia, cluster sizes, silhouette."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.clustering.checks import check_count, check_seed, check_vectors
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.suggesting import suggesting


@suggesting
def inertia(x: Float[Tensor, "B H N D"], clusters: Clusters) -> Float[Tensor, "B H"]:
    """The sum of squared distances of every vector to its cluster's mean, float64; padding does not count.

    This is scikit-learn's ``KMeans.inertia_`` for the final members' means.

    Raises
    ------
    ValueError : x and the clusters are not of one [B, H, N].
    """
    labels = _labels_of(x, clusters)
    index = labels.clamp(min=0).unsqueeze(-1).expand(*labels.shape, x.shape[-1])
    nearest = clusters.centroids.double().gather(2, index)
    return (x.double() - nearest).square().sum(-1).masked_fill(labels < 0, 0.0).sum(-1)


@suggesting
def sizes(clusters: Clusters) -> Int[Tensor, "B H C"]:
    """Members of every cluster, the largest cluster first."""
    _check_clusters(clusters)
    return clusters.counts.sort(dim=-1, descending=True).values


@suggesting
def silhouette(
    x: Float[Tensor, "B H N D"], clusters: Clusters, samples: int = 2000, seed: int = 0
) -> Float[Tensor, "B H"]:
    """The mean silhouette coefficient by scikit-learn: 1 for tight clusters far apart, below 0 for mixed ones.

    Parameters
    ----------
    x : [B, H, N, D], finite.
    clusters : a partition of x; padding is left out.
    samples : score that many vectors drawn at random among themselves, for the score is quadratic in them.
    seed : of that draw.

    Returns
    -------
    [B, H] float64; NaN for a head with one cluster only or one vector a cluster, which have no silhouette.

    Raises
    ------
    ValueError : x and the clusters are not of one [B, H, N], or samples below 2.
    """
    from sklearn.metrics import silhouette_score

    labels = _labels_of(x, clusters)
    check_count("samples", samples, 2)
    check_seed(seed)
    scores = torch.full(labels.shape[:2], torch.nan, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for b, h in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape[:2])).tolist():
        members = (labels[b, h] >= 0).nonzero().squeeze(-1).cpu()
        members = members[torch.randperm(len(members), generator=generator)[:samples]]
        label = labels[b, h].cpu()[members]
        if 2 <= len(label.unique()) < len(label):
            points = x[b, h].detach().double().cpu()[members]
            scores[b, h] = float(silhouette_score(points.numpy(), label.numpy()))
    return scores


def _labels_of(x: Tensor, clusters: Clusters) -> Tensor:
    check_vectors(x)
    _check_clusters(clusters)
    if x.shape[:3] != clusters.labels.shape:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and clusters are of {tuple(clusters.labels.shape)}; one [B, H, N] is needed"
        )
    return clusters.labels


def _check_clusters(clusters: object) -> None:
    if not isinstance(clusters, Clusters):
        raise TypeError(
            f"clusters is a {type(clusters).__name__}; a Clusters is needed: ml.kmeans, balanced or runs gives one"
        )
