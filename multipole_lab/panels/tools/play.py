"""A button that walks one control through all its values, a picture after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ..common.work import running_loop

if TYPE_CHECKING:
    from ..common.base import Panel

_PAUSE = 0.7  # seconds for which a picture is looked at


class Player:
    """Plays a control of a panel from its first value to its last; a move of anything, or the button, stops it.

    Parameters
    ----------
    panel : whose control it is. name : of the control; it is a slider.

    Attributes
    ----------
    button : pressed while it plays.
    """

    def __init__(self, panel: Panel, name: str) -> None:
        self._panel, self._name, self._rest = panel, name, []
        self._expected: dict | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.pause = _PAUSE
        words = panel.controls[name].description
        self.button = widgets.ToggleButton(
            description=f"Play {words}", icon="play", tooltip=f"Move {words} from its first value to its last"
        )
        self.button.observe(self._pressed, "value")

    @property
    def playing(self) -> bool:
        """Whether values are still to come, or the last one is being drawn."""
        return self._expected is not None

    def moved(self) -> None:
        """Hear that a control has moved: stop, unless this player moved it."""
        if self.playing and self._panel.state() != self._expected:
            self._stop()

    def drawn(self) -> None:
        """Hear that the present picture is whole: go on after a pause."""
        loop = running_loop()
        if self.playing and loop is not None and self._timer is None:
            self._timer = loop.call_later(self.pause, self._next)

    def _pressed(self, change) -> None:
        """Begin at the first value, or stop."""
        if not change["new"]:
            self._stop()
            return
        self._rest = _values(self._panel.controls[self._name])
        self._next()
        while running_loop() is None and self.playing:  # outside Jupyter everything happens at once
            self._next()

    def _next(self) -> None:
        """Move to the next value."""
        self._timer = None
        if not self._rest:
            self._stop()
            return
        value = self._rest.pop(0)
        still_there = self._panel.state()[self._name] == value
        self._expected = {**self._panel.state(), self._name: value}
        self._panel.set(**{self._name: value})
        if still_there:
            self.drawn()

    def _stop(self) -> None:
        """Play no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._expected, self._rest = None, None, []
        self.button.value = False


def _values(control: widgets.Widget) -> list:
    """All values of a slider, in order."""
    if hasattr(control, "_options_full"):
        return [value for _, value in control._options_full]
    return list(range(control.min, control.max + 1))
