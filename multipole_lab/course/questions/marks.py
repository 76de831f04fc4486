"""`Marks`: partial credit for one question, test by test. For the hidden tests of the master notebooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from multipole_lab.course.questions.compare import Wrong, same
from multipole_lab.course.questions.question import find

_ONE_AT_A_TIME = threading.Lock()  # in float64, the long way round, a right answer may take 200 MB


@dataclass(frozen=True)
class Mark:
    """One test: its name, the points it gave, those it could give, and why the others are missing."""

    name: str
    earned: float
    points: float
    reason: str = ""


class Marks:
    """Collect the points of a question; a test that fails costs its own points only.

    The last line of a hidden test is ``marks.earned``, which nbgrader takes as partial credit.

    Parameters
    ----------
    question : "A1.2"; its oracle says what is right.
    function : the student's, or what stands for it in the grader.
    exponentials : the most that one call in `agree` may compute. A formula needs a few, finite differences evaluate
        the same thing for every direction: whoever computes more gets no points for the question.

    Attributes
    ----------
    tests : a `Mark` each.
    barred : why there are no points whatever the tests say, or an empty string.
    """

    def __init__(self, question: str, function: Callable, exponentials: int | None = None) -> None:
        self.question, self.function, self.exponentials = find(question), function, exponentials
        self.tests: list[Mark] = []
        self.barred = ""

    @contextmanager
    def __call__(self, name: str, points: float) -> Iterator[None]:
        """``with marks("ragged shapes", 2): ...`` gives 2 points unless something is raised inside."""
        try:
            yield
        except Exception as error:
            known = isinstance(error, Wrong) or type(error).__name__ in {"Failure", "TimeUp"}
            reason = str(error) if known else f"{type(error).__name__}: {str(error)[:200]}"
            self.tests.append(Mark(name, 0.0, points, reason))
        else:
            self.tests.append(Mark(name, float(points), points))

    def agree(self, name: str, points: float, *inputs: tuple) -> None:
        """The function gives what the oracle gives, for every tuple of arguments."""
        with self(name, points):
            for args in inputs:
                right, parts = self._right(args), self.question.parts
                same(self._answer(args), right, self.question.tol, names=parts)

    def _right(self, args: tuple) -> object:
        with _ONE_AT_A_TIME:
            return self.question.oracle(*args)

    def _answer(self, args: tuple) -> object:
        answer = self.function(*args)
        count = getattr(self.function, "exponentials", 0)  # the grader's process counts them
        if self.exponentials is not None and count > self.exponentials:
            self.barred = (
                f"{count} exponentials for one answer: the question wants the formula, no differences"
            )
        return answer

    @property
    def earned(self) -> float:
        """Points so far."""
        return 0.0 if self.barred else round(sum(mark.earned for mark in self.tests), 6)

    @property
    def points(self) -> float:
        """Points that could have been earned so far."""
        return round(sum(mark.points for mark in self.tests), 6)
