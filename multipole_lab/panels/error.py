"""The error panel: how wrong an approximation is on each head, where in the text, and what that looks like."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from multipole_lab.analysis.heads import error_by_position, first_tokens
from multipole_lab.attention import Centroid, Exact, MuSe
from multipole_lab.figures import error as draw

from . import controls
from .base import Panel, Picture

_STRETCHES, _ROWS = 64, 128  # points of the line along the text; columns of the strips of output


class ErrorPanel(Panel):
    """Relative squared error per head, where in the sequence it sits, and the output exact and approximate."""

    def __init__(self, sample) -> None:
        self.sample = sample
        # Exact attention depends on layer and context alone and is the dearest step; the approximation is
        # kept too, so that looking at another head computes nothing.
        self._exact = lru_cache(maxsize=8)(self._attend_exactly)
        self._approx = lru_cache(maxsize=8)(self._attend)
        methods = {
            "tilted": "MuSe: every cluster expanded around the centre of the query's own cluster",
            "centroid": "Centroid replacement: every cluster expanded around the origin, its plain mean",
        }
        moves = {
            "layer": controls.layer(sample),
            "head": controls.head(sample),
            "context": controls.context(sample),
            "clusters": controls.clusters(),
            "cap": controls.cap(),
            "iterations": controls.iterations(),
            "near": controls.near(),
            "seed": controls.seed(),
            "method": controls.choice("method", methods, "tilted"),
            "order": controls.order(),
        }
        super().__init__("error", moves)

    def compute(self, head: int, **choices) -> Iterator[Picture]:
        """Run exact and approximate attention over all heads and compare them."""
        layer, context = choices["layer"], choices["context"]
        exact, approx = self._exact(layer, context), self._approx(**choices)
        error = error_by_position(approx, exact)[0]  # [H, N]
        rse, place = error.mean(-1).numpy(), error[head].numpy()
        stretches = np.array_split(np.arange(context), min(_STRETCHES, context))
        worst = [int(part[place[part].argmax()]) for part in stretches]
        rows = np.linspace(0, context - 1, min(_ROWS, context)).astype(int)
        figure = draw(
            rse=rse,
            head=head,
            positions=np.array([part[0] for part in stretches]),
            by_position=np.array([place[part].mean() for part in stretches]),
            tokens=[self.sample.tokens[i] for i in worst],
            rows=rows,
            exact=exact[0, head, rows].numpy(),
            approx=approx[0, head, rows].numpy(),
            name=choices["method"],
        )
        yield Picture(figure, {"head": np.arange(len(rse)), "relative_squared_error": rse})

    @torch.inference_mode()
    def _attend_exactly(self, layer: int, context: int) -> torch.Tensor:
        """Run exact attention over the whole layer."""
        return Exact()(*first_tokens(self.sample[layer], context), scale=self.sample.scale)

    @torch.inference_mode()
    def _attend(self, layer, context, method, clusters, cap, iterations, near, seed, order) -> torch.Tensor:
        """Run the chosen approximation over the whole layer."""
        shared = {"clusters": clusters, "cap": cap, "iterations": iterations, "near": near, "seed": seed}
        attend = Centroid(**shared) if method == "centroid" else MuSe(order=order, **shared)
        return attend(*first_tokens(self.sample[layer], context), scale=self.sample.scale)


def error(sample) -> ErrorPanel:
    """Show the error of an approximation. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return ErrorPanel(sample)
