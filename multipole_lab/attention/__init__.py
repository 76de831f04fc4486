"""Attention methods: one method, one file; all return partials that merge by their log-sum-exp."""

from multipole_lab.attention.calls.replay import without_graphs
from multipole_lab.attention.centroid import Centroid
from multipole_lab.attention.exact import Exact
from multipole_lab.attention.method import Method
from multipole_lab.attention.muse import MuSe
from multipole_lab.attention.partials import merge
from multipole_lab.attention.topk import TopK
from multipole_lab.attention.window import Window
from multipole_lab.suggesting import known_names

__all__ = ["Centroid", "Exact", "Method", "MuSe", "TopK", "Window", "merge", "without_graphs"]

__getattr__ = known_names(__name__, __all__)
