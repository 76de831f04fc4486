"""Which states of each panel its page holds: what the tour and the lessons ask a reader to try."""

from __future__ import annotations

from functools import cache

from states import Plan

import multipole_lab as ml

LAYERS = (3, 15, 28)


@cache
def sample(tokens: int) -> ml.Sample:
    """The beginning of the sample that comes with the lab."""
    return ml.load_sample("smollm2").crop(tokens)


# A short text where a page must hold many words; the lessons' own lengths otherwise.
PLANS = {
    "lens": Plan(
        lambda: ml.panels.lens(sample(256)),
        {"near": (0, 2), "query": tuple(range(256))},
        {"clusters": 16, "leaf": 32},
    ),
    "matrix": Plan(
        lambda: ml.panels.matrix(sample(512)),
        {"sort": ("text", "cluster"), "clusters": (16, 32), "near": (0, 2, 4, 8)},
    ),
    "clusters": Plan(
        lambda: ml.panels.clusters(sample(1024)),
        {"layer": LAYERS, "head": (0, 4), "cap": (1.0, 1.5), "clusters": (16, 64), "spotlight": (0, 1, 2, 3)},
    ),
    "expansion": Plan(
        lambda: ml.panels.expansion(steps=25),
        {
            "spread": (0.2, 0.8), "field": ("log mass", "output"), "order": ("monopole", "dipole"),
            "p_x": (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0), "p_y": (-1.6, -0.8, 0.0, 0.8, 1.6),
        },
    ),
    "error": Plan(
        lambda: ml.panels.error(sample(1024)),
        {
            "method": ("tilted", "centroid"), "clusters": (64, 128, 256), "near": (0, 1, 4),
            "order": ("monopole", "dipole"),
        },
    ),
    "speed": Plan(lambda: ml.panels.speed(sample(1024)), {"clusters": (16, 64, 256), "order": ("monopole", "dipole")}),
    "blocks": Plan(
        lambda: ml.panels.blocks(sample(1024)),
        {"leaf": (64, 128, 256), "near": (0, 2, 8), "colour": ("level", "error", "mass")},
        {"clusters": 32},
    ),
    "decode": Plan(
        lambda: ml.panels.decode(sample(1024)),
        {"budget": (64, 128, 512), "others": ("centroids", "dropped"), "step": tuple(range(1, 25))},
        {"context": 1024},
    ),
    "writing": Plan(
        lambda: ml.panels.writing(sample(512)), {"budget": (32, 64, 128), "word": tuple(range(1, 25))}
    ),
    "front": Plan(
        lambda: ml.panels.front(sample(512)), {"attention": ("full", "causal"), "budget": tuple(range(10, 201, 10))}
    ),
    "tuner": Plan(
        lambda: ml.panels.tuner(sample(512)),
        {"max_error": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)},
        prepare=lambda panel: panel.tune(),
    ),
    "cost": Plan(
        lambda: ml.panels.cost(sample(4096)),
        {
            "method": ("MuSe", "Centroid", "Window", "TopK"), "clusters": (64, 256, 1024),
            "tokens": tuple(2**i for i in range(10, 21)),
        },
    ),
    "roofline": Plan(
        ml.panels.roofline,
        {
            "device": ("A100 80GB", "H100", "H200"), "clusters": (16, 64, 256),
            "tokens": tuple(2**i for i in range(9, 18)),
        },
    ),
}  # fmt: skip

# The desk: its first panels with the sliders that they share, and few states of each.
DESK = {
    "lens": Plan(
        lambda: ml.panels.lens(sample(256)),
        {"layer": LAYERS, "clusters": (8, 16, 32), "near": (0, 2), "query": tuple(range(15, 256, 16))},
        {"leaf": 32, "clusters": 16, "near": 2},
    ),
    "clusters": Plan(
        lambda: ml.panels.clusters(sample(256)), {"layer": LAYERS, "clusters": (8, 16, 32)}, {"clusters": 16}
    ),
    "error": Plan(
        lambda: ml.panels.error(sample(256)),
        {"layer": LAYERS, "clusters": (8, 16, 32), "near": (0, 2)},
        {"clusters": 16, "near": 2},
    ),
}
