"""Flat pictures of a high-dimensional head: principal axes, and colours that tell neighbours apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Projection:
    """A fitted principal component analysis, and the fitted vectors on its axes.

    Attributes
    ----------
    points : [N, dims]. The vectors that the axes were fitted to.
    explained : [dims]. The share of the total variance along each axis, 0 to 1.
    mean : [D]; axes : [dims, D]. What :meth:`project` subtracts, and then projects on.
    """

    points: Float[np.ndarray, "N dims"]
    explained: Float[np.ndarray, " dims"]
    mean: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "dims D"]

    def project(self, vectors: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M dims"]:
        """Place other vectors (centroids, queries) on the same axes."""
        return (vectors - self.mean) @ self.axes.T


def principal_axes(vectors: Float[np.ndarray, "N D"], dims: int = 3) -> Projection:
    """Fit scikit-learn's PCA and keep the leading ``dims`` axes. The signs are the same on every run.

    Parameters
    ----------
    vectors : [N, D] with N >= dims and D >= dims.

    Raises
    ------
    ValueError : fewer than ``dims`` vectors or columns.
    """
    from sklearn.decomposition import PCA

    if min(vectors.shape) < dims:
        raise ValueError(f"vectors: {dims} principal axes need at least a {dims} x {dims} array, "
                         f"got {vectors.shape[0]} x {vectors.shape[1]}")  # fmt: skip
    # With N far above D the D x D covariance is the cheap way: 3 ms at N = 4096, D = 64.
    pca = PCA(n_components=dims, svd_solver="covariance_eigh").fit(vectors)
    points = (vectors - pca.mean_) @ pca.components_.T
    return Projection(points, pca.explained_variance_ratio_, pca.mean_, pca.components_)


def neighbour_colours(centres: Float[np.ndarray, "C dims"], colours: int = 16) -> Int[np.ndarray, " C"]:
    """Colour clusters as a map colours countries: each its own while colours last, and then no neighbours alike.

    Greedy: each cluster takes the colour whose nearest user so far is farthest away. O(C^2) distances.

    Parameters
    ----------
    centres : [C, dims]. Cluster centroids where they are drawn.
    colours : size of the palette.

    Returns
    -------
    [C] int, each in 0..colours-1.
    """
    nearest = np.full((colours, len(centres)), np.inf)  # squared distance to the nearest user of a colour
    chosen = np.zeros(len(centres), dtype=int)
    for j, centre in enumerate(centres):
        chosen[j] = int(np.argmax(nearest[:, j]))
        distance = ((centres - centre) ** 2).sum(axis=1)
        nearest[chosen[j]] = np.minimum(nearest[chosen[j]], distance)
    return chosen
