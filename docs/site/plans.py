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


# A short text where a page must hold many words; the lengths of the tour and of the lessons otherwise.
PLANS = {
    "lens": Plan(
        lambda: ml.panels.lens(sample(256)),
        {"near": (0, 2), "query": tuple(range(256))},
        {"clusters": 16, "leaf": 32},
        ask="Click a word: what is blue it looks at word by word, what is orange only through a cluster, on the right. "
        "Set near to 0: which words lose most?",
    ),
    "matrix": Plan(
        lambda: ml.panels.matrix(sample(2048)),
        {"sort": ("text", "cluster"), "clusters": (16, 32), "near": (0, 2, 8, 16)},
        ask="Press cluster: stripes become blocks, and one summary can stand for a block. "
        "With more near, more is summed key by key (blue, below right): what becomes of the error in the title?",
    ),
    "clusters": Plan(
        lambda: ml.panels.clusters(sample(1024)),
        {"layer": LAYERS, "head": (0, 4), "cap": (1.0, 1.5), "clusters": (16, 64), "spotlight": (0, 1, 2, 3)},
        ask="A dot is a key and a colour is a cluster. Move spotlight to see one cluster alone; set cap to 1.0 and "
        "look at the bars.",
    ),
    "expansion": Plan(
        lambda: ml.panels.expansion(steps=25),
        {
            "spread": (0.2, 0.8), "field": ("log mass", "output"), "order": ("monopole", "dipole"),
            "p_x": (-2.0, -1.2, -0.4, 0.4, 1.2, 2.0), "p_y": (-1.6, -0.8, 0.0, 0.8, 1.6),
        },
        ask="The first square is the truth. Move the white cross with p x and p y: around it the error is small "
        "(dark). Then press dipole.",
    ),
    "error": Plan(
        lambda: ml.panels.error(sample(2048)),
        {
            "method": ("tilted", "centroid"), "clusters": (64, 128, 256), "near": (0, 1, 4),
            "order": ("monopole", "dipole"),
        },
        ask="A dot is a head; lower is better. Double clusters, or move near: which helps more? (The method centroid "
        "has neither near nor order.)",
    ),
    "speed": Plan(
        lambda: ml.panels.speed(sample(1024)), {"clusters": (16, 64, 256), "order": ("monopole", "dipole")},
        ask="Do the two lines cross, and where? More clusters make the error smaller: what do they do to the time?",
    ),
    "blocks": Plan(
        lambda: ml.panels.blocks(sample(1024)),
        {"leaf": (64, 128, 256), "near": (0, 2, 8), "colour": ("level", "error", "mass")},
        {"clusters": 32},
        ask="Every query sees only the keys before it. Small squares on the diagonal are exact, each larger block is "
        "summed at once. Press error: which blocks are to blame?",
    ),
    "decode": Plan(
        lambda: ml.panels.decode(sample(1024)),
        {"budget": (64, 128, 512), "others": ("centroids", "dropped"), "step": tuple(range(1, 25))},
        {"context": 1024},
        ask="A row is one new token: blue keys it always reads, orange ones because their cluster was opened. Make the "
        "budget smaller: what becomes of the error?",
    ),
    "writing": Plan(
        lambda: ml.panels.writing(sample(512)), {"budget": (32, 64, 128), "word": tuple(range(1, 25))},
        ask="Move word: what this word's step read is lit in the text above. With a smaller budget, fewer clusters are "
        "opened.",
    ),
    "front": Plan(
        lambda: ml.panels.front(sample(512)), {"attention": ("full", "causal"), "budget": tuple(range(10, 201, 10))},
        ask="Left is faster and down is more accurate. Move the time limit: the ring marks the smallest error "
        "within it.",
    ),
    "tuner": Plan(
        lambda: ml.panels.tuner(sample(512)),
        {"max_error": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)},
        prepare=lambda panel: panel.tune(),
        ask="Allow more error: the ring moves up, to a faster method, and the line below the picture changes with it.",
    ),
    "cost": Plan(
        lambda: ml.panels.cost(sample(4096)),
        {
            "method": ("MuSe", "Centroid", "Window", "TopK"), "clusters": (64, 256, 1024),
            "tokens": tuple(2**i for i in range(10, 21)),
        },
        ask="Make the text longer: from which length on does the method take less time than exact attention?",
    ),
    "roofline": Plan(
        ml.panels.roofline,
        {
            "device": ("A100 80GB", "H100", "H200"), "clusters": (16, 64, 256),
            "tokens": tuple(2**i for i in range(9, 18)),
        },
        ask="On the slope a kernel waits for memory, on the flat part for arithmetic. Give it more tokens: how many "
        "kernels wait for memory then?",
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
