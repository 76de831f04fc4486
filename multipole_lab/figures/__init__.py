"""Pictures of multipole attention: pure functions, numpy arrays in, a plotly ``go.Figure`` out."""

from multipole_lab.suggesting import known_names

from .blocks import blocks
from .clusters import clusters
from .cost import cost
from .decode import decode
from .error import error
from .expansion import expansion
from .fields import fields
from .front import front
from .lines import lines
from .looks.lens import lens
from .looks.matrix import matrix
from .looks.step import step
from .looks.writing import writing
from .parallel import parallel
from .roofline import roofline
from .speed import speed
from .sweep import sweep
from .tuner import tuner

__all__ = [
    "blocks",
    "clusters",
    "cost",
    "decode",
    "error",
    "expansion",
    "fields",
    "front",
    "lens",
    "lines",
    "matrix",
    "parallel",
    "roofline",
    "speed",
    "step",
    "sweep",
    "tuner",
    "writing",
]

__getattr__ = known_names(__name__, __all__)
