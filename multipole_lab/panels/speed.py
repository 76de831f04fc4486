"""The speed panel: exact against approximate attention, timed here and now."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np

from multipole_lab.attention import MuSe
from multipole_lab.figures import speed as draw
from multipole_lab.measure.lengths import time_lengths
from multipole_lab.suggesting import suggesting

from .common import controls
from .common.base import Picture
from .common.timed import TimedPanel
from .common.words import button
from .page.race import race

_COLUMNS = ("length", "exact_ms", "approx_ms", "rse")
_RANGES = tuple(f"{side}_ms_{end}" for side in ("exact", "approx") for end in ("low", "high"))


class SpeedPanel(TimedPanel):
    """Time against context length, exact and approximate, with the error on the same axes."""

    title = "speed"

    def __init__(self, sample) -> None:
        self._race = widgets.HTML()
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        longest = len(sample.tokens)
        return {
            "layer": controls.layer(sample),
            "context": controls.powers(
                "up to", "The longest text timed", min(512, longest), longest, longest
            ),
            "clusters": controls.clusters(),
            "iterations": controls.iterations(),
            "near": controls.near(),
            "order": controls.order(),
        }

    def compute(self, layer, context, **choices) -> Iterator[Picture | None]:
        """Time one length after the other, drawing as they come."""
        shortest = min(max(256, choices["clusters"]), context)
        attend = MuSe(**choices)
        lengths = [n for n in (2**i for i in range(31)) if shortest <= n < context] + [context]
        table: dict[str, list] = {name: [] for name in (*_COLUMNS, *_RANGES)}
        yield self._draw(table, 0.0, "")
        # Work grows with the square of the length, and so does the share of it that is done.
        total = sum(n * n for n in lengths)
        layer = self.sample[layer]
        for pace in time_lengths(layer, lengths, attend, scale=self.sample.scale, device=self.device):
            if pace is None:
                yield None
                continue
            for name in _COLUMNS:
                table[name].append(getattr(pace, name))
            ends = *(pace.exact_range or 2 * [pace.exact_ms]), *(pace.approx_range or 2 * [pace.approx_ms])
            for name, ms in zip(_RANGES, ends, strict=True):
                table[name].append(ms)
            done = sum(n * n for n in table["length"]) / total
            yield self._draw(table, done if pace.length < context else 1.0, pace.baseline)

    def _draw(self, table: dict[str, list], done: float, baseline: str) -> Picture:
        """Draw what has been measured so far, against the kernel ``baseline`` of exact attention."""
        columns = [np.array(table[name]) for name in _COLUMNS]
        heads = self.sample[self.sample.layers[0]].q.shape[1]
        baseline_words = f", against torch's {baseline}" if baseline else ""
        figure = draw(
            *columns,
            machine=self.machine,
            name="MuSe",
            detail=f"All {heads} heads, k-means included{baseline_words}. {self.busy}".strip(),
            measuring=done < 1,
            spread=np.array([table[name] for name in _RANGES]).reshape(2, 2, -1),
        )
        ended = done == 1 and len(columns[0]) > 0
        self._race.value = (
            race(dict(zip(("exact", "MuSe"), (x[-1] for x in columns[1:3]), strict=True)), columns[0][-1])
            if ended
            else ""
        )
        return Picture(figure, {name: list(values) for name, values in table.items()}, done)

    def _above(self) -> list[widgets.Widget]:
        """The race at the longest length stands over the curves."""
        return [self._race]

    def _buttons(self) -> list[widgets.Button]:
        """Add buttons that measure once more and that let the bars run again."""
        again = button("Measure again", "Time the same settings once more", self._moved)
        race_again = button("Race", "Let both bars run again", self._run_again)
        return [again, race_again, *super()._buttons()]

    def _run_again(self, _button) -> None:
        """Put the bars on the page again, for they run when they are put there."""
        bars, self._race.value = self._race.value, ""
        self._race.value = bars


@suggesting
def speed(sample) -> SpeedPanel:
    """Time exact and approximate attention here and now. ``sample`` is from ``ml.load_sample``."""
    return SpeedPanel(sample)
