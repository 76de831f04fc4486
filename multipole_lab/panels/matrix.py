"""The matrix panel: who attends to whom, exactly and approximately, in the order of the text or of the clusters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from multipole_lab.attention import Exact, MuSe
from multipole_lab.attention.causal import block_sizes
from multipole_lab.clustering.kmeans import kmeans
from multipole_lab.figures import matrix as draw
from multipole_lab.figures.common.triangle import rectangles
from multipole_lab.lessons.matrices import Cells, by_cluster, exact_pairs, share, share_and_output
from multipole_lab.measure.errors import relative_squared_error
from multipole_lab.measure.heads import one_head
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.sampled import SampledPanel

MOST_CELLS = 128  # a side: as many as a screen shows, and a page takes at once
STEPS = 6  # pictures from one order to the other


class MatrixPanel(SampledPanel):
    """One head's attention as a picture, an approximation beside it, and below them what differs and why."""

    title = "matrix"
    main = "sort", "clusters", "near", "attention"
    plays = "near"

    def __init__(self, sample) -> None:
        self._exact = lru_cache(maxsize=16)(self._share_exactly)
        self._output = lru_cache(maxsize=16)(self._attend_exactly)
        self._sorted = 0.0  # how far rows and columns are from the order of the text to that of the clusters
        super().__init__(sample)
        self._porter.taller = 200  # two squares side by side fill the width, whatever it is

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        tokens = len(sample.tokens)
        orders = {
            "text": "Rows and columns in the order of the text",
            "cluster": "The members of a cluster side by side: stripes become blocks",
        }
        return {
            "layer": controls.layer(sample),
            "head": controls.head(sample),
            "context": controls.context(sample),
            "attention": controls.sight("full"),
            "sort": controls.choice("sort by", orders, "text"),
            "clusters": controls.clusters(32),
            "near": controls.near(2),
            "order": controls.order(),
            "leaf": controls.leaf(tokens, tokens // 16),
        }

    def compute(self, layer, head, context, attention, sort, **choices) -> Iterator[Picture]:
        """Draw both matrices; from one order to the other step by step, so that the eye can follow."""
        method, where = MuSe(**choices), (layer, head, context, attention == "causal")
        goal = float(sort == "cluster")
        for at in _way(self._sorted, goal):
            self._sorted = at
            cells, exact = self._exact(*where, at, method.clusters if at else 0)
            approximate, summed, pairs, found = self._approximate(*where, method, cells)
            blocks = where[-1] and at == 0  # of causal attention, where they lie side by side
            edges = rectangles(context, *block_sizes(context, method.leaf)) if blocks else []
            with one_thread():
                rse = float(relative_squared_error(found, self._output(*where)))
            figure = draw(exact, approximate, summed, pairs, context, rse, _words(at), edges)
            yield Picture(figure, _table(exact, approximate, summed, pairs), 1 - abs(at - goal))

    def _share_exactly(self, layer, head, context, causal, at, clusters) -> tuple[Cells, np.ndarray]:
        """Where rows and columns stand, and exact attention in that order."""
        q, k, _ = one_head(self.sample[layer], head, context)
        ranks = [np.arange(context)] * 2
        with one_thread():
            if at:
                ranks = by_cluster(*(kmeans(x, clusters, cap=1.5) for x in (q, k)), self.sample.scale)
            cells = Cells.of(*(_between(rank, at) for rank in ranks), MOST_CELLS)
            return cells, share(Exact(), q, k, cells, causal, self.sample.scale)

    @one_thread()
    @torch.inference_mode()
    def _attend_exactly(self, layer, head, context, causal) -> torch.Tensor:
        """The output of exact attention, in whatever order rows and columns stand."""
        return Exact()(*one_head(self.sample[layer], head, context), causal=causal, scale=self.sample.scale)

    def _approximate(
        self, layer, head, context, causal, method, cells
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]:
        """The same by the method; which pairs it sums one by one, and which there are; its output."""
        q, k, v = one_head(self.sample[layer], head, context)
        with one_thread():
            shares, out = share_and_output(method, q, k, v, cells, causal, self.sample.scale)
            return shares, *exact_pairs(method, q, k, cells, causal, self.sample.scale), out


def _way(start: float, goal: float) -> list[float]:
    """The steps from one order to the other; the goal alone where it is reached."""
    return [goal] if start == goal else list(np.linspace(start, goal, STEPS + 1)[1:])


def _between(rank: np.ndarray, at: float) -> np.ndarray:
    """A ranking that is so far on the way from the order of the text to this one."""
    place = (1 - at) * np.arange(len(rank)) + at * rank
    return place.argsort(kind="stable").argsort(kind="stable")


def _words(at: float) -> str:
    """What the rows and columns are sorted by."""
    return {0.0: "the text", 1.0: "the clusters"}.get(at, "the text, on the way to the clusters")


def _table(exact, approximate, summed, pairs) -> dict[str, np.ndarray]:
    """One line for every cell that has a pair."""
    row, column = np.nonzero(pairs)
    named = {"exact": exact, "approximate": approximate, "pairs": pairs, "summed_exactly": summed}
    return {"row": row, "column": column} | {name: x[row, column] for name, x in named.items()}


@suggesting
def matrix(sample) -> MatrixPanel:
    """Show who attends to whom. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return MatrixPanel(sample)
