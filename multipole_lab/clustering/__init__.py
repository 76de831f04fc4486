"""Partitions of vectors into clusters; all return ``Clusters``."""

from multipole_lab.clustering.balanced import balanced, induced_metric
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.clustering.diagnostics import inertia, silhouette, sizes
from multipole_lab.clustering.kmeans import kmeans
from multipole_lab.clustering.spatial import spatial
from multipole_lab.suggesting import known_names

__all__ = [
    "Clusters",
    "balanced",
    "induced_metric",
    "inertia",
    "kmeans",
    "silhouette",
    "sizes",
    "spatial",
]

__getattr__ = known_names(__name__, __all__)
