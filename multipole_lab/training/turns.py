"""Two trainings that take turns, a step of one and a step of the other, so that whatever else happens hits both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from transformers import TrainerCallback


class Turns:
    """Several threads, of which one has the turn and runs; all others wait.

    Parameters
    ----------
    names : the sides, in their order. seconds : after that long, the step that is under way is the last of every side.
    """

    def __init__(self, names: list[str], seconds: float | None = None) -> None:
        self._waiting = threading.Condition()
        self._ring = list(names)
        self._turn = names[0]
        self._first = names[0]
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._last: int | None = None
        self.error: BaseException | None = None

    def wait(self, name: str) -> None:
        """Until it is this side's turn.

        Raises
        ------
        Ended : another side has failed.
        """
        with self._waiting:
            while self._turn != name and self.error is None:
                self._waiting.wait()
            if self.error is not None:
                raise Ended

    def pass_on(self, name: str) -> None:
        """To the next side."""
        with self._waiting:
            if len(self._ring) > 1:
                self._turn = self._ring[(self._ring.index(name) + 1) % len(self._ring)]
                self._waiting.notify_all()

    def leave(self, name: str, error: BaseException | None = None) -> None:
        """This side is done; with an error, so are all."""
        with self._waiting:
            following = self._ring[(self._ring.index(name) + 1) % len(self._ring)]
            self._ring.remove(name)
            if self._turn == name:
                self._turn = following
            self._waiting.notify_all()
        if error is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """All sides end at their next step; the first error is kept."""
        with self._waiting:
            if self.error is None:
                self.error = error
            self._waiting.notify_all()

    def over(self, name: str, step: int) -> bool:
        """Whether this step is a side's last; the first side looks at the time, the others do as many steps."""
        if name == self._first and self._ends is not None and time.monotonic() >= self._ends:
            self._last = step
        return self._last is not None and step >= self._last


class Ended(Exception):
    """Another side has failed, so there is nothing to compare with."""


class TakeTurns(TrainerCallback):
    """Passes the turn on before every step, once there was one, and waits until it comes back."""

    def __init__(self, turns: Turns, name: str) -> None:
        self.turns, self.name, self.begun = turns, name, False

    def on_step_begin(self, args, state, control, **kwargs):
        if self.begun:  # the step before, its log and its checkpoint are done
            self.turns.pass_on(self.name)
        self.turns.wait(self.name)
        self.begun = True


def side_by_side(
    sides: Mapping[str, Callable[[TakeTurns, Callable[[int], bool]], object]], seconds: float | None = None
) -> dict[str, object]:
    """Run every side in a thread of its own, one at a time; returns what each returned.

    Parameters
    ----------
    sides : name to a call of (a callback for its trainer, a function that says whether a step is the last).
    seconds : the time all sides have together; all do the same number of steps.

    Raises
    ------
    The first error of any side.
    """
    turns = Turns(list(sides), seconds)
    results: dict[str, object] = {}

    def run(name: str, call: Callable) -> None:
        error = None
        try:
            turns.wait(name)
            results[name] = call(TakeTurns(turns, name), lambda step: turns.over(name, step))
        except BaseException as raised:
            error = raised
        turns.leave(name, error)

    threads = [threading.Thread(target=run, args=side, name=side[0], daemon=True) for side in sides.items()]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():  # a join without a limit could not be interrupted
                thread.join(0.2)
    except KeyboardInterrupt as interrupt:
        turns.fail(interrupt)
        for thread in threads:  # the step under way ends first
            thread.join(60)
    if turns.error is not None:
        raise turns.error
    return results
