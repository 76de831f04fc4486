"""Partitions of vectors into clusters; all return ``Clusters``."""

from multipole_lab.clustering.balanced import balanced, induced_metric
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.clustering.diagnostics import inertia, silhouette, sizes
from multipole_lab.clustering.kmeans import kmeans
from multipole_lab.clustering.spatial import spatial

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
