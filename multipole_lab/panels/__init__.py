"""Panels: sliders around the figures, on real queries and keys. Each function returns a widget to display."""

from multipole_lab.panels.common import needed  # noqa: F401  before the others
from multipole_lab.suggesting import known_names

from .blocks import blocks
from .clusters import clusters
from .cost import cost
from .decode import decode
from .error import error
from .expansion import expansion
from .front import front
from .lab import lab
from .lens import lens
from .matrix import matrix
from .roofline import roofline
from .speed import speed
from .tuner import tuner
from .writing import writing

__all__ = [
    "blocks",
    "clusters",
    "cost",
    "decode",
    "error",
    "expansion",
    "front",
    "lab",
    "lens",
    "matrix",
    "roofline",
    "speed",
    "tuner",
    "writing",
]

__getattr__ = known_names(__name__, __all__)
