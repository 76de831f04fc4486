"""What a panel was before: every move is kept, and undone one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ..common.words import button

_ONE_MOVE = 1.0  # seconds within which moves of one control are one: a slider that is dragged
_MOST = 100


class History:
    """Moments of a panel or a desk, mappings of names to values, and a button that goes back to the last one.

    Parameters
    ----------
    now : gives the present moment. go : brings the panel to a moment.

    Attributes
    ----------
    button : pressed, it undoes a move; it cannot be pressed where there is none.
    """

    def __init__(
        self, now: Callable[[], Mapping[str, object]], go: Callable[[Mapping[str, object]], None]
    ) -> None:
        self._now, self._go = now, go
        self._past: list[Mapping[str, object]] = []
        self._last: Mapping[str, object] = {}
        self._changed, self._at, self._still = set(), 0.0, True
        self.button = button("Undo", "Take the last move back", self.undo, "undo")
        self.button.disabled = True

    def begin(self) -> None:
        """Keep what moves from now on."""
        self._last, self._still = self._now(), False

    def note(self, joined: bool = False) -> None:
        """Keep the moment before this move; moves of one control one after the other, or ``joined``, are one."""
        if self._still:
            return
        now = self._now()
        changed = {name for name, value in now.items() if value != self._last.get(name)}
        if not changed:
            return
        at = time.monotonic()
        one = changed == self._changed and len(changed) == 1 and (joined or at - self._at < _ONE_MOVE)
        if not one:
            self._past = [*self._past, self._last][-_MOST:]
        self._last, self._changed, self._at = now, changed, at
        self.button.disabled = not self._past

    def undo(self, _button: object = None) -> None:
        """Go back to the moment before the last move; at the first one nothing happens."""
        if self._past:
            moment = self._past.pop()
            with self.still():
                self._go(moment)
            self._last, self._changed = self._now(), set()
        self.button.disabled = not self._past

    @contextmanager
    def still(self) -> Iterator[None]:
        """Moves inside the block are not kept."""
        before, self._still = self._still, True
        try:
            yield
        finally:
            self._still = before
