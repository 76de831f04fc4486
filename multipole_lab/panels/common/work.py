"""A panel's work: pictures computed one after the other, and dropped as stale when a control moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go

# A move waits this long for the next one: a slider held down then computes once, not at each step. Where a picture is
# quick, it does not wait for the end of the moves: it is drawn while the slider is dragged, and after a rest at once.
_SETTLE_SECONDS = 0.03
_REST_SECONDS = 0.3
_QUICK_SECONDS = 0.1


@dataclass(frozen=True)
class Picture:
    """What a panel shows: the figure, the numbers behind it (columns by name), the share done (0 to 1)."""

    figure: go.Figure
    table: dict[str, np.ndarray | list] = field(default_factory=dict)
    done: float = 1.0


class Work:
    """The pictures of a panel's present state: computed by the event loop inside Jupyter, elsewhere at once.

    Parameters
    ----------
    pictures : begins to compute the present state; a None among the pictures only lets moves be heard.
    show : called when there is a new ``picture``.
    fail : called with whatever computing raised.

    Attributes
    ----------
    picture : the last one.
    moves : how often a control has moved.
    started, heard : when the present work began, and when a control moved last, by ``time.perf_counter``.
    quick : whether the last picture after a move was on its way in less than a tenth of a second.
    """

    def __init__(
        self,
        pictures: Callable[[], Iterator[Picture | None]],
        show: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._pictures, self._show, self._fail = pictures, show, fail
        self.picture, self.moves = Picture(go.Figure()), 0
        self.started = self.heard = time.perf_counter()
        self.quick = False
        self._job: Iterator[Picture | None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is under way or waits."""
        return self._job is None and self._timer is None

    def ended(self) -> float:
        """Note that the picture of the present state is on its way; return the seconds that it took."""
        seconds = time.perf_counter() - self.started
        # The first picture also waits for libraries and the sample: no measure of a redraw.
        self.quick = self.moves > 0 and seconds < _QUICK_SECONDS
        return seconds

    def begin(self) -> bool:
        """Start computing the present state; True when there is a first picture, which is not shown yet."""
        self.started = time.perf_counter()
        self._job = self._pictures()
        return self._next()

    def go_on(self) -> None:
        """Show the picture that `begin` has made, and go on to the others."""
        if self._job is not None:
            self._show()
            self._advance(self.moves)

    def move(self) -> None:
        """Drop what is under way and compute the new state: soon in Jupyter, at once elsewhere."""
        now, before = time.perf_counter(), self.heard
        self.moves, self.heard, self._job = self.moves + 1, now, None
        loop = running_loop()
        if self._timer is not None:
            if self.quick:
                return
            self._timer.cancel()
        if loop is None:
            self._restart()
        else:
            single = self.quick and now - before > _REST_SECONDS
            self._timer = loop.call_later(0 if single else _SETTLE_SECONDS, self._restart)

    def finish(self) -> None:
        """Do all that waits or is under way, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._restart()
        while self._job is not None:
            if self._next():
                self._show()

    def _restart(self) -> None:
        self._timer = None
        if self.begin():
            self._show()
            self._advance(self.moves)

    def _next(self) -> bool:
        """Take the job's next picture, if it has one."""
        try:
            picture = next(self._job)
        except StopIteration:
            self._job = None
            return False
        except Exception as error:  # whatever went wrong, the panel has to stay usable
            self._job = None
            self._fail(error)
            return False
        self.picture = picture or self.picture
        return picture is not None

    def _advance(self, moves: int) -> None:
        """Go on with the job unless a control has moved since; between steps the event loop hears moves."""
        loop = running_loop()
        while moves == self.moves and self._job is not None:
            if self._next():
                self._show()
            if loop is not None:
                loop.call_later(0.001, self._advance, moves)
                return


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop, if there is one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
