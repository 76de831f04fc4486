"""Every attention method there is, in the settings that take a path of their own, small enough for short tests."""

from subclasses import derived

import multipole_lab as ml
from multipole_lab.attention.method import Method

METHODS = {
    "Exact": ml.Exact(),
    "Window": ml.Window(size=5, sinks=1),
    "TopK": ml.TopK(keys=4),
    "Centroid": ml.Centroid(clusters=3, leaf=8),
    "Centroid budget": ml.Centroid(clusters=3, budget=4, sinks=1, recent=3, leaf=8),
    "Centroid runs": ml.Centroid(clusters=3, budget=4, partition="runs", leaf=8),
    "MuSe": ml.MuSe(clusters=3, leaf=8),
    "MuSe near": ml.MuSe(clusters=3, near=1, sinks=2, leaf=8),
    "MuSe for queries": ml.MuSe(clusters=5, near=2, near_for="query", points="earlier", leaf=8),
    "MuSe no cap": ml.MuSe(clusters=3, cap=None, leaf=8),
    "MuSe dipole": ml.MuSe(clusters=3, order="dipole", dipole_rank=2, leaf=8),
    "MuSe full dipole": ml.MuSe(clusters=3, near=1, order="dipole", dipole_rank=None, leaf=8),
    "MuSe balanced": ml.MuSe(clusters=3, partition="balanced", leaf=8),
    "MuSe runs": ml.MuSe(clusters=3, partition="runs", leaf=8),
    "MuSe few query clusters": ml.MuSe(clusters=4, query_clusters=2, leaf=8),
    "MuSe merged": ml.MuSe(clusters=4, leaf=8, levels="merged"),
}


def classes() -> set[type]:
    """All classes of methods, found by themselves; what spreads a method over processes is none of its own."""
    return derived(Method, "multipole_lab.attention.")
