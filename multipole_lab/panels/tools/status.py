"""A panel's line of status: at work, how far, and after how long its picture was seen."""

from __future__ import annotations

import time

import ipywidgets as widgets

from ..common.work import Work


class Status(widgets.HTML):
    """What a panel is doing, in words.

    A picture counts as drawn when the page says that it is shown; until then, and without a page, it is computed.
    """

    _number, _heard = 0, 0.0

    def working(self) -> None:
        """Say that a move was heard; it is seen only where the picture takes its time."""
        self.value = '<span class="ml-busy" role="status">working …</span>'

    def under_way(self, work: Work) -> None:
        """Say how far long work is."""
        done, seconds = work.picture.done, time.perf_counter() - work.started
        bar = f'<progress max="1" value="{done:.2f}"></progress>' if seconds > 3 * done else ""
        fresh = "ml-busy" if seconds < 0.3 else ""
        self.value = f'<span class="{fresh}" role="status">{done:.0%} {bar}</span>'

    def drawn(self, work: Work) -> int:
        """Say that the last picture is on its way; return its number, which the page gives back."""
        seconds = work.ended()
        self._number, self._heard = self._number + 1, work.heard
        self._say(f"computed in {seconds * 1000:,.0f} ms" if work.moves else "ready")
        return self._number

    def shown(self, number: object) -> None:
        """Hear that a picture is seen: the time since the move, and one way between page and kernel, are over."""
        if number == self._number and self.value.count("computed in"):
            self._say(f"drawn in {(time.perf_counter() - self._heard) * 1000:,.0f} ms")

    def _say(self, words: str) -> None:
        self.value = f'<span role="status">{words}</span>'
