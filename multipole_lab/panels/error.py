"""The error panel: how wrong an approximation is on each head, and where in the text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from multipole_lab.attention import Centroid, Exact, MuSe
from multipole_lab.figures import error as draw
from multipole_lab.figures.error import WorstToken
from multipole_lab.measure.errors import per_query_error
from multipole_lab.measure.heads import one_head
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.sampled import SampledPanel

_SPANS, _WORST = 64, 10  # points of the line along the text; tokens in the list
_AROUND = 60  # characters of the text on either side of a token


class ErrorPanel(SampledPanel):
    """Error per head, where in the sequence it sits, and the tokens where it is largest."""

    title = "error"
    main = "method", "clusters", "near", "head"
    plays = "near"

    def __init__(self, sample) -> None:
        # Outputs are kept, 0.5 MB a head: exact ones do not depend on most sliders, and looking at another
        # head or back at the last setting computes nothing.
        self._exact = lru_cache(maxsize=64)(self._attend_exactly)
        self._approx = lru_cache(maxsize=128)(self._attend)
        super().__init__(sample)
        self._shown.data[0].on_click(self._clicked)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        methods = {
            "tilted": "MuSe: every cluster expanded around the centroid of the query's own cluster",
            "centroid": "Centroid replacement: every cluster expanded around the origin, its plain mean",
        }
        return {
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

    def compute(self, head: int, **choices) -> Iterator[Picture | None]:
        """Show the chosen head at once, then measure the others and fill in their dots."""
        heads = self.sample[choices["layer"]].q.shape[1]
        rse = np.full(heads, np.nan)
        for h in [head, *(h for h in range(heads) if h != head)]:
            rse[h] = self._error(h, choices).mean()
            if h == head:
                yield self._draw(head, choices, rse, 1 / heads)
            elif not np.isnan(rse).any():
                yield self._draw(head, choices, rse, 1.0)
            else:
                yield None

    def _error(self, head: int, choices: dict) -> np.ndarray:
        """Return the error of one head at every position, [N]."""
        exact = self._exact(choices["layer"], head, choices["context"])
        return per_query_error(self._approx(head=head, **choices), exact)[0, 0].numpy()

    def _draw(self, head: int, choices: dict, rse: np.ndarray, done: float) -> Picture:
        """Summarise one head's error along the text and at its worst tokens, and draw both below the dots."""
        context = choices["context"]
        place = self._error(head, choices)
        spans = np.array_split(np.arange(context), min(_SPANS, context))
        worst = [int(part[place[part].argmax()]) for part in spans]
        order = np.argsort(-place)[:_WORST]
        figure = draw(
            rse=rse.copy(),
            head=head,
            positions=np.array([part[0] for part in spans]),
            by_position=np.array([place[part].mean() for part in spans]),
            tokens=[self.sample.tokens[i] for i in worst],
            worst=[self._in_its_sentence(int(i), float(place[i])) for i in order],
        )
        return Picture(figure, {"head": np.arange(len(rse)), "relative_squared_error": rse.copy()}, done)

    def _in_its_sentence(self, at: int, wrong: float) -> WorstToken:
        """A token with its error and the text around it."""
        tokens = self.sample.tokens
        before, after = "".join(tokens[max(at - _AROUND, 0) : at]), "".join(tokens[at + 1 : at + _AROUND])
        return WorstToken(at, wrong, before[-_AROUND:], tokens[at], after[:_AROUND])

    def _clicked(self, _trace, points, _keys) -> None:
        """Look at the head whose dot was clicked."""
        if points.xs:
            self.set(head=int(points.xs[0]))

    @one_thread()
    @torch.inference_mode()
    def _attend_exactly(self, layer: int, head: int, context: int) -> torch.Tensor:
        """Run exact attention over one head."""
        return Exact()(*one_head(self.sample[layer], head, context), scale=self.sample.scale)

    @one_thread()
    @torch.inference_mode()
    def _attend(self, layer, head, context, method, order, near, **shared) -> torch.Tensor:
        """Run the chosen approximation over one head."""
        attend = MuSe(order=order, near=near, **shared)
        if method == "centroid":
            attend = Centroid(**shared)
        return attend(*one_head(self.sample[layer], head, context), scale=self.sample.scale)


@suggesting
def error(sample) -> ErrorPanel:
    """Show the error of an approximation. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return ErrorPanel(sample)
