"""The expansion in two dimensions, where everything can be drawn: keys as sources, a field over the queries.

The same formulas as the library's attention (``docs/design.md#expansion``), written for D = 2, a scale of 1 and one
scalar value per key, in numpy and slowly enough to read. Expansions are per cluster; a field sums clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.printing import one_line
from multipole_lab.testing import oracle


@dataclass(frozen=True)
class Toy:
    """A handful of keys in the plane. keys [N, 2], values [N], labels [N] in 0..clusters-1."""

    keys: Float[np.ndarray, "N 2"]
    values: Float[np.ndarray, " N"]
    labels: Int[np.ndarray, " N"]

    __repr__ = one_line

    @property
    def clusters(self) -> int:
        """The number of clusters."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Moments:
    """What is kept of each cluster after the sum around p: [C] mass, [C, 2] key, [C] value, [C, 2] dipole."""

    mass: Float[np.ndarray, " C"]
    key: Float[np.ndarray, "C 2"]
    value: Float[np.ndarray, " C"]
    dipole: Float[np.ndarray, "C 2"]

    __repr__ = one_line


@dataclass(frozen=True)
class Field:
    """Attention as a function of the query: potential (log mass of all clusters) and output, both [M]."""

    potential: Float[np.ndarray, " M"]
    output: Float[np.ndarray, " M"]

    __repr__ = one_line


def make_toy(clusters: int = 2, keys: int = 8, spread: float = 0.8, seed: int = 0) -> Toy:
    """Scatter ``keys`` keys around each of ``clusters`` centres on a circle of radius 1.2.

    ``spread`` is the standard deviation inside a cluster: the wider, the more a plain mean forgets. A key's
    value follows its place along a slope (so that a dipole has something to find) plus a little noise.
    """
    if clusters < 1 or keys < 1:
        raise ValueError(f"clusters and keys: must be at least 1, got {clusters} and {keys}")
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * (np.arange(clusters) / clusters) + 0.5
    centres = 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [C, 2]
    labels = np.repeat(np.arange(clusters), keys)
    points = centres[labels] + spread * rng.standard_normal((len(labels), 2))
    values = points @ np.array([0.6, -0.4]) + 0.2 * rng.standard_normal(len(labels))
    return Toy(points, values, labels)


def moments(toy: Toy, p: Float[np.ndarray, " 2"]) -> Moments:
    """Sum every cluster around p: log mass a(p), tilted key and value centroids, and the dipole M(p)."""
    rows, at = [], _tensor(p)
    for j in range(toy.clusters):
        inside = toy.labels == j
        keys, values = _tensor(toy.keys[inside]), _tensor(toy.values[inside])[:, None]
        one = oracle.summary(at, keys, values, 1.0)
        rows.append((one.mass, one.key, one.value[0], oracle.dipole(at, keys, values, 1.0)[0]))
    return Moments(*(torch.stack(column).numpy() for column in zip(*rows, strict=True)))


def weights(toy: Toy, p: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " N"]:
    """The weight of each key inside its own cluster, as p sees it."""
    found = np.empty(len(toy.keys))
    for j in range(toy.clusters):
        inside = toy.labels == j
        found[inside] = oracle.tilt(_tensor(p), _tensor(toy.keys[inside]), 1.0)[1].numpy()
    return found


def truth(toy: Toy, queries: Float[np.ndarray, "M 2"]) -> Field:
    """Exact attention of every query to every key."""
    out, lse = oracle.exact(_tensor(queries), _tensor(toy.keys), _tensor(toy.values)[:, None], 1.0)
    return Field(lse.numpy(), out[:, 0].numpy())


def expand(toy: Toy, p: Float[np.ndarray, " 2"], queries: Float[np.ndarray, "M 2"], order: str) -> Field:
    """Attention from the moments alone: each cluster's log mass to first order in d = q - p.

    ``order="monopole"`` keeps each cluster's value fixed at v~(p); ``"dipole"`` moves it by M(p) d. With p at
    the origin the monopole is centroid replacement: log n, the plain key mean, the plain value mean.
    """
    if order not in ("monopole", "dipole"):
        raise ValueError(f"order: must be 'monopole' or 'dipole', got {order!r}")
    m = moments(toy, p)
    at = oracle.Summary(_tensor(m.mass), _tensor(m.key), _tensor(m.value)[:, None])
    dipoles = _tensor(m.dipole)[:, None] if order == "dipole" else None
    mass, value = oracle.expanded(_tensor(queries - p), at, 1.0, dipoles)  # [M, C], [M, C, 1]
    out, lse = oracle.softmax_sum(mass[:, None], value)
    return Field(lse[:, 0].numpy(), out[:, 0, 0].numpy())


def _tensor(x: np.ndarray) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def grid(
    extent: float = 3.0, steps: int = 41
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, "M 2"]]:
    """Lay out the queries of a square picture: the axis [steps], and the points [steps^2, 2], row by row."""
    axis = np.linspace(-extent, extent, steps)
    x, y = np.meshgrid(axis, axis)
    return axis, np.stack([x.ravel(), y.ravel()], axis=1)
