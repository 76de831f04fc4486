"""The speed panel: exact against approximate attention, timed here and now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import ipywidgets as widgets
import numpy as np
import torch

from multipole_lab.attention import MuSe
from multipole_lab.figures import speed as draw
from multipole_lab.measure.inputs import Load
from multipole_lab.measure.lengths import Pace, time_lengths
from multipole_lab.suggesting import suggesting

from .common import controls
from .common.base import Picture
from .common.timed import TimedPanel
from .common.words import button
from .page.race import race

_COLUMNS = ("length", "exact_ms", "approx_ms", "rse", "exact_device_ms", "approx_device_ms")
_RANGES = tuple(f"{side}_ms_{end}" for side in ("exact", "approx") for end in ("low", "high"))


@dataclass
class _SoFar:
    """What has been measured of a call of this load, in words: every length's pace; and why it ended early."""

    words: str
    paces: list[Pace] = field(default_factory=list)
    ended: str = ""

    def table(self) -> dict[str, list]:
        """The columns of the figure."""
        table = {name: [getattr(pace, name) for pace in self.paces] for name in _COLUMNS}
        for side in ("exact", "approx"):
            ends = [
                getattr(pace, f"{side}_range") or 2 * (getattr(pace, f"{side}_ms"),) for pace in self.paces
            ]
            for i, end in enumerate(("low", "high")):
                table[f"{side}_ms_{end}"] = [pair[i] for pair in ends]
        return table


class SpeedPanel(TimedPanel):
    """Time against context length, exact and approximate, with the error on the same axes."""

    title = "speed"

    def __init__(self, sample) -> None:
        self._race = widgets.HTML()
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        return {
            "layer": controls.layer(sample),
            "context": controls.lengths("up to", len(sample.tokens), self.device, 65536),
            "sight": controls.sight("full"),
            "heads": controls.heads(),
            "batch": controls.batch(),
            "clusters": controls.clusters(),
            "iterations": controls.iterations(),
            "near": controls.near(),
            "order": controls.order(),
        }

    def compute(self, layer, context, sight, heads, batch, **choices) -> Iterator[Picture | None]:
        """Time one length after the other, drawing as they come; where memory ends, the shorter ones stay."""
        shortest = min(max(256, choices["clusters"]), context)
        lengths = [n for n in (2**i for i in range(31)) if shortest <= n < context] + [context]
        load = Load(heads or None, batch, sight == "causal")
        so_far = _SoFar(load.words(self.sample[layer].q.shape[1]))
        yield self._draw(so_far, 0.0)
        # Work grows with the square of the length, and so does the share of it that is done.
        total = sum(n * n for n in lengths)
        paces = time_lengths(
            self.sample[layer],
            lengths,
            MuSe(**choices),
            scale=self.sample.scale,
            device=self.device,
            load=load,
        )
        try:
            for pace in paces:
                if pace is None:
                    yield None
                    continue
                so_far.paces.append(pace)
                done = sum(pace.length**2 for pace in so_far.paces) / total
                yield self._draw(so_far, done if pace.length < context else 1.0)
        except torch.OutOfMemoryError:
            so_far.ended = "There was no memory for longer ones. "
            yield self._draw(so_far, 1.0)

    def _draw(self, so_far: _SoFar, done: float) -> Picture:
        """Draw what has been measured so far, against the kernel of exact attention that was fastest."""
        table = so_far.table()
        columns = [np.array(table[name]) for name in _COLUMNS]
        against = f", against torch's {so_far.paces[-1].baseline}" if so_far.paces else ""
        figure = draw(
            *columns[:4],
            machine=self.machine,
            name="MuSe",
            detail=f"{so_far.words}, k-means included{against}. {so_far.ended}{self.busy}".strip(),
            measuring=done < 1,
            spread=np.array([table[name] for name in _RANGES]).reshape(2, 2, -1),
            device_ms=np.array(columns[4:]),
        )
        ended = done == 1 and len(so_far.paces) > 0
        self._race.value = (
            race(dict(zip(("exact", "MuSe"), (x[-1] for x in columns[1:3]), strict=True)), columns[0][-1])
            if ended
            else ""
        )
        return Picture(figure, table, done)

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
