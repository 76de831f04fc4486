"""Multipole attention: keys that are far away are summed once and expanded around a point.

Names are resolved when first used, so that ``multipole-lab --help`` and the doctor need no torch.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_WHERE = {
    "Centroid": "attention",
    "Clusters": "clustering",
    "Exact": "attention",
    "MuSe": "attention",
    "MultipoleCache": "decoding",
    "Sample": "models",
    "TopK": "attention",
    "Window": "attention",
    "balanced": "clustering",
    "capture": "models",
    "compare": "analysis",
    "kmeans": "clustering",
    "load_model": "models",
    "load_sample": "models",
    "merge": "attention",
    "relative_squared_error": "analysis",
    "spatial": "clustering",
    "sweep": "analysis",
    "tune": "analysis",
}
_SUBPACKAGES = (
    "analysis",
    "attention",
    "clustering",
    "course",
    "decoding",
    "evaluation",
    "figures",
    "models",
    "panels",
    "parallel",
)

__all__ = [*_WHERE, *_SUBPACKAGES]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
