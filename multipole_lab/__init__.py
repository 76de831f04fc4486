"""Multipole attention: keys that are far away are summed once and expanded around a point.

A first look::

    import multipole_lab as ml

    sample = ml.load_sample("smollm2")  # a real model reading a story
    layer = sample[15]  # its queries, keys and values
    out = ml.MuSe(order="dipole")(layer.q, layer.k, layer.v)
    print(ml.compare(sample, [ml.MuSe(), ml.MuSe(order="dipole")]))

Methods, called as scaled_dot_product_attention is: MuSe, Centroid, TopK,
Window, Exact; merge joins parts. ``method.on(model)`` puts one into a
transformers model; MultipoleCache decodes with clustered keys.
Clusterings: kmeans, balanced, runs. Samples: load_sample, capture,
load_model. What suits you: compare, tune, sweep. In a notebook: panels.

``help(ml.MuSe)`` explains one name, ``multipole-lab --help`` the commands.
Names are resolved when first used: the commands' help needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multipole_lab import renamed
from multipole_lab.suggesting import lazy_names

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
    "compare": "measure",
    "kmeans": "clustering",
    "load_choice": "search",
    "load_model": "models",
    "load_sample": "models",
    "merge": "attention",
    "relative_squared_error": "measure",
    "runs": "clustering",
    "sweep": "search",
    "tune": "search",
    "without_graphs": "attention",
}
_SUBPACKAGES = (
    "attention",
    "clustering",
    "course",
    "decoding",
    "evaluation",
    "figures",
    "lessons",
    "measure",
    "models",
    "panels",
    "parallel",
    "search",
    "testing",
    "training",
)

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab import (
        attention as attention,
        clustering as clustering,
        course as course,
        decoding as decoding,
        evaluation as evaluation,
        figures as figures,
        lessons as lessons,
        measure as measure,
        models as models,
        panels as panels,
        parallel as parallel,
        search as search,
        testing as testing,
        training as training,
    )
    from multipole_lab.attention import (
        Centroid as Centroid,
        Exact as Exact,
        MuSe as MuSe,
        TopK as TopK,
        Window as Window,
        merge as merge,
        without_graphs as without_graphs,
    )
    from multipole_lab.clustering import (
        Clusters as Clusters,
        balanced as balanced,
        kmeans as kmeans,
        runs as runs,
    )
    from multipole_lab.decoding import MultipoleCache as MultipoleCache
    from multipole_lab.measure import compare as compare, relative_squared_error as relative_squared_error
    from multipole_lab.models import (
        Sample as Sample,
        capture as capture,
        load_model as load_model,
        load_sample as load_sample,
    )
    from multipole_lab.search import load_choice as load_choice, sweep as sweep, tune as tune

__all__ = [*_WHERE, *_SUBPACKAGES]


renamed.install()
__getattr__, __dir__ = lazy_names(__name__, _WHERE, _SUBPACKAGES, old=("analysis",))
__getattr__ = renamed.with_old_names(__name__, __getattr__)
