"""The states of a panel, computed beforehand: what a page without a kernel shows when a slider moves."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product

import anywidget
import ipywidgets as widgets
import numpy as np
from otherwise import of_a_page

from multipole_lab.panels.common.base import Panel
from multipole_lab.panels.common.sampled import SHIPPED
from multipole_lab.panels.common.shown import parts_of
from multipole_lab.panels.common.words import readout

# A part of a picture that is longer than this is kept once, however many states show it.
_SHARED = 48


@dataclass(frozen=True)
class Plan:
    """Which states of a panel a page holds: every combination of the values that its controls can take.

    Parameters
    ----------
    make : makes the panel.
    moves : the values of each control, by name; the slowest to compute first.
    fixed : values of other controls, set once.
    prepare : called with the panel before the first state: what somebody would press a button for.
    ask : what to try and to look for, in a sentence or two below the page's title.
    """

    make: Callable[[], Panel]
    moves: Mapping[str, tuple]
    fixed: Mapping[str, object] = field(default_factory=dict)
    prepare: Callable[[Panel], object] = lambda panel: None
    ask: str = ""


class Pool:
    """What states have in common, kept once: equal parts get the same number."""

    def __init__(self) -> None:
        self.parts: list = []
        self._numbers: dict[str, int] = {}

    def pack(self, value: object) -> object:
        """``value`` for JSON, with ``{"$": number}`` in the place of what is long."""
        if isinstance(value, dict):
            value = {name: self.pack(part) for name, part in value.items()}
        elif isinstance(value, list | tuple) and any(isinstance(part, dict) for part in value):
            value = [self.pack(part) for part in value]
        else:
            value = plain(value)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if len(text) < _SHARED:
            return value
        if text not in self._numbers:
            self._numbers[text] = len(self.parts)
            self.parts.append(value)
        return {"$": self._numbers[text]}


def compute(plan: Plan) -> dict:
    """Walk through every state of a plan.

    Returns
    -------
    ``controls``, ``states`` in the order of their combinations (the last control moves fastest) and ``parts``, what
    they share. ``setup`` are the lines before the panel's own, ``still`` the controls that do not move, ``taller`` as
    the panel's porter has it.

    Raises
    ------
    ValueError : a state that the panel refuses, in the panel's words.
    """
    panel = plan.make()
    panel.set(**plan.fixed)
    plan.prepare(panel)
    first, pool, states = panel.state(), Pool(), []
    labels: dict[str, dict] = {name: {} for name in plan.moves}
    for values in product(*plan.moves.values()):
        panel.set(**dict(zip(plan.moves, values, strict=True)))
        figure = panel.figure()
        if panel.message:
            raise ValueError(f"{panel.name}, {dict(zip(plan.moves, values, strict=True))}: {panel.message}")
        for name, value in zip(plan.moves, values, strict=True):
            labels[name][value] = readout(panel.controls[name])
        above = [_page_part(part) for part in panel._above()]
        states.append(
            pool.pack(
                {"figure": parts_of(figure), "words": panel.summary, "code": panel.code, "above": above}
            )
        )
    still = {c.description: readout(c) for name, c in panel.controls.items() if name not in plan.moves}
    return {
        "name": panel.name,
        "setup": _setup(panel),
        "controls": [
            _control(panel.controls[name], name, list(said.values()), _place(list(said), first[name]))
            for name, said in labels.items()
        ],
        "still": still,
        "taller": panel._porter.taller,
        "states": states,
        "parts": pool.parts,
    }


def packed(states: dict) -> str:
    """The states as one line of letters, small enough for a page: JSON, compressed, in base 64."""
    text = json.dumps(states, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _setup(panel: Panel) -> str:
    """The lines that stand before a panel's own."""
    lines = ["import multipole_lab as ml"]
    if hasattr(panel, "sample"):
        lines += [f'sample = ml.load_sample("{SHIPPED}").crop({len(panel.sample.tokens)})']
    return "\n".join(lines)


def _place(values: list, first: object) -> int:
    """Where a page begins: at the panel's own first value, or in the middle where that is none of the values."""
    return values.index(first) if first in values else len(values) // 2


def _control(control: widgets.Widget, name: str, values: list[str], start: int) -> dict:
    """A control as the page makes it: buttons stay buttons, everything else is a slider."""
    kind = "buttons" if isinstance(control, widgets.ToggleButtons | widgets.Dropdown) else "slider"
    said = {"name": name, "label": control.description, "help": control.tooltip or "", "kind": kind}
    return {**said, "values": values, "start": start}


def _page_part(part: widgets.Widget) -> dict:
    """What stands above the figure: text, or a widget's own page code by its class and what it shows."""
    if isinstance(part, anywidget.AnyWidget):
        names = [name for name in part.traits(sync=True) if not name.startswith("_")]
        values = {
            name: getattr(part, name) for name in names if name not in ("layout", "tabbable", "tooltip")
        }
        return {"kind": type(part).__name__, "values": values}
    return {"kind": "text", "values": {"text": part.value}}


def plain(value: object) -> object:
    """A value as JSON has it: numbers with as many digits as a picture shows, bytes in base 64, no NaN."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            digits = 3 if value.ndim > 1 else 4
            return [plain(row) for row in value] if value.ndim > 1 else [_short(x, digits) for x in value]
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return _short(value, 6)
    if isinstance(value, str):
        return of_a_page(value)
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def _short(number: float, digits: int) -> float | int | None:
    """A number with few digits; whole ones without a point."""
    if not np.isfinite(number):
        return None
    short = float(f"{number:.{digits}g}")
    return int(short) if short.is_integer() else short
