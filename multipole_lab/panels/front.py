"""The front panel: every method and setting on one picture of error against time, with a time limit to move."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np

from multipole_lab.figures import front as draw
from multipole_lab.measure.inputs import Load
from multipole_lab.search.candidates import FAMILIES, candidates, measure
from multipole_lab.suggesting import suggesting

from .common import controls
from .common.base import Picture
from .common.timed import TimedPanel
from .common.words import button


class FrontPanel(TimedPanel):
    """Error against time for some twenty settings, measured here and now; moving the time limit measures nothing."""

    title = "front"

    def __init__(self, sample) -> None:
        self._measured: dict[tuple, dict[int, object]] = {}
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        keys = {"full": "Every query sees every key", "causal": "Every query sees the keys up to its own"}
        return {
            "layer": controls.layer(sample),
            "context": self._context(sample),
            "budget": controls.integer(
                "time limit", "The time a call may take, in percent of exact attention's", 5, 200, 50
            ),
            "attention": controls.choice("mask", keys, "full"),
            "heads": controls.heads(),
            "batch": controls.batch(),
        }

    def _context(self, sample) -> widgets.SelectionSlider:
        """On a processor lengths of the sample, whose errors are real ones; on a GPU longer ones, too."""
        if self.device == "cpu":
            return controls.context(sample)
        return controls.lengths("context", len(sample.tokens), self.device, 16384)

    def compute(self, layer, context, budget, attention, heads, batch) -> Iterator[Picture | None]:
        """Measure what is not known yet of this layer, length and load, one candidate after the other."""
        load = _load(heads, batch, attention)
        tried = candidates(context, load.causal)
        known = self._measured.setdefault((layer, context, load), {})
        machine = f"{self.machine}, {load.words(self.sample[layer].q.shape[1])}"
        if not load.is_real(self.sample[layer], context):
            machine += f", tokens drawn again from {len(self.sample.tokens):,}, which flatters errors"
        yield self._draw(tried, known, budget, machine)
        missing = [i for i in range(len(tried)) if i not in known]
        others = [tried[i] for i in missing]
        if not missing:
            return
        layer = self.sample[layer]
        for cost in measure(layer, context, others, load, self.sample.scale, device=self.device):
            if cost is None:
                yield None
                continue
            known[missing[cost.index]] = cost
            yield self._draw(tried, known, budget, machine)

    def forget(self) -> None:
        """Drop what was measured on the sample before."""
        self._measured.clear()

    def _draw(self, tried, known, budget, machine) -> Picture:
        """Draw what has been measured so far, on one scale of time: exact attention's median over all turns.

        A candidate's time counts as a share of exact attention's in the same turns, so that a machine that was
        busy for some of them moves no mark against the others.
        """
        ms, rse = np.full((2, len(tried)), np.nan)
        exact = float(np.median([cost.exact_ms for cost in known.values()])) if known else np.nan
        for i, cost in known.items():
            ms[i], rse[i] = cost.ms / cost.exact_ms * exact, cost.rse
        families, settings = [one.family for one in tried], [one.setting for one in tried]
        done = len(known) / len(tried)
        limit = exact * budget / 100
        figure = draw(ms, rse, families, settings, exact, limit, machine, names=FAMILIES, measuring=done < 1)
        table = {"method": [str(one.method) for one in tried], "ms": ms, "rse": rse}
        return Picture(figure, {**table, "exact_ms": np.full(len(tried), exact)}, done)

    def _buttons(self) -> list[widgets.Button]:
        """Add a button that measures once more."""
        again = button("Measure again", "Time the same settings once more", self._measure_again)
        return [again]

    def _measure_again(self, _button) -> None:
        """Forget what was measured for the present state."""
        state = self.state()
        load = _load(state["heads"], state["batch"], state["attention"])
        self._measured.pop((state["layer"], state["context"], load), None)
        self._moved(None)


def _load(heads: int, batch: int, attention: str) -> Load:
    """What the controls ask of one call."""
    return Load(heads or None, batch, attention == "causal")


@suggesting
def front(sample) -> FrontPanel:
    """Weigh error against time over many settings. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return FrontPanel(sample)
