"""Partitions of vectors into clusters; all return ``Clusters``."""

from multipole_lab.clustering.balanced import balanced, induced_metric
from multipole_lab.clustering.clusters import Clusters
from multipole_lab.clustering.diagnostics import inertia, silhouette, sizes
from multipole_lab.clustering.kmeans import kmeans
from multipole_lab.clustering.runs import runs
from multipole_lab.renamed import with_old_names
from multipole_lab.suggesting import known_names

__all__ = [
    "Clusters",
    "balanced",
    "induced_metric",
    "inertia",
    "kmeans",
    "runs",
    "silhouette",
    "sizes",
]

__getattr__ = with_old_names(__name__, known_names(__name__, __all__))
