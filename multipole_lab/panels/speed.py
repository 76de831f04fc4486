"""The speed panel: exact against approximate attention, timed here and now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import ipywidgets as widgets
import numpy as np
import torch

from multipole_lab.attention import MuSe
from multipole_lab.figures import speed as draw
from multipole_lab.measure.lengths import Pace, time_lengths
from multipole_lab.measure.load import Load
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
    """What has been measured: every length's pace, of so many heads in all; and why it ended early, in words."""

    heads: int
    load: Load
    paces: list[Pace] = field(default_factory=list)
    ended: str = ""

    @property
    def words(self) -> str:
        """What one call has to do."""
        texts = f" of {self.load.batch} texts" if self.load.batch > 1 else ""
        return f"{'Causal, ' if self.load.causal else ''}{self.heads} heads{texts}"

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
            "context": _context(len(sample.tokens), self.device),
            "sight": controls.sight("full"),
            "heads": _heads(),
            "batch": controls.powers("batch", "How many texts are attended to in one call", 1, 16, 1),
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
        so_far = _SoFar(
            self.sample[layer].q.shape[1] * batch if load.heads is None else load.heads * batch, load
        )
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


def _context(own: int, device: str) -> widgets.SelectionSlider:
    """Choose the longest text timed: the sample's own length, powers of two below it, and beyond."""
    longest = max(own, _longest(device))
    options = sorted({own, longest, *(2**i for i in range(9, 31) if 2**i < longest)})
    # On a GPU short texts are over before their kernels have begun: the long ones are what it is bought for.
    first = own if torch.device(device).type == "cpu" else max(n for n in options if n <= max(own, 65536))
    return widgets.SelectionSlider(
        options=[(f"{n:,}", n) for n in options], value=first, description="up to", continuous_update=False,
        tooltip="The longest text timed; beyond the sample's end its tokens are drawn again",
    )  # fmt: skip


def _longest(device: str) -> int:
    """The longest text offered: what a processor takes seconds for, what a GPU's memory holds with room to spare."""
    if torch.device(device).type != "cuda":
        return 16384
    memory = torch.cuda.get_device_properties(device).total_memory
    return 65536 if memory < 12e9 else 131072 if memory < 32e9 else 262144


def _heads() -> widgets.SelectionSlider:
    """Choose how many heads one call has."""
    return widgets.SelectionSlider(
        options=[("the layer's", 0), ("8", 8), ("16", 16), ("32", 32)], value=0, description="heads",
        tooltip="How many heads one call attends with: the layer's own, or so many with keys of their own",
        continuous_update=False,
    )  # fmt: skip


@suggesting
def speed(sample) -> SpeedPanel:
    """Time exact and approximate attention here and now. ``sample`` is from ``ml.load_sample``."""
    return SpeedPanel(sample)
