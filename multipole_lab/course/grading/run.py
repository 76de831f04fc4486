"""Running one question of a submission: a process for it, the hidden tests, and what a slip before it has cost."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch

import multipole_lab
from multipole_lab.course.cells.code import Code
from multipole_lab.course.cells.kernels import defined, kernels
from multipole_lab.course.grading.markers import without_tests
from multipole_lab.course.grading.notebook import Cell, Item, Master, read
from multipole_lab.course.questions import forbidden
from multipole_lab.course.sandbox.session import Failure, ForkServer, Session
from multipole_lab.course.sandbox.walls import Limits

SLOW = 1.0  # seconds: a cell that takes longer, and that no question rests on, is run once


@dataclass
class Grade:
    """What one question earned. ``earned`` is None for a written one that nobody has read yet."""

    question: str
    title: str
    points: float
    bonus: bool = False
    manual: bool = False
    earned: float | None = 0.0
    reason: str = ""
    tests: list[dict] = field(default_factory=list)
    answer: str = ""


def blank(master: Master) -> list[Grade]:
    """A grade for every question, before anything has run."""
    return [
        Grade(i.name, i.title, i.points, i.bonus, i.manual, None if i.manual else 0.0) for i in master.items
    ]


@dataclass
class Run:
    """One submission being graded.

    Attributes
    ----------
    own : the submission's cells by their grade_id.
    skipped : {label: why the cell is not run again}.
    notes : what the student and the instructor should know.
    """

    master: Master
    code: Code
    own: dict[str, Cell]
    fork_server: ForkServer
    limits: Limits
    skipped: dict[str, str] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def grade(self, item: Item, grade: Grade, right: tuple[tuple[str, str], ...] = ()) -> None:
        """Run one question's hidden tests here, in this process, on what the student's process answers.

        Parameters
        ----------
        right : cells that run after the student's: the master's answers to earlier questions.
        """
        if "torch" in item.forbidden:
            students, grade.reason = self._kernels(item)
        else:
            students = [cell for cell in self.code.sources if cell[0] not in self.skipped]
            grade.reason = self.code.not_allowed(item)
        if grade.reason:
            return
        # The master's own cells once more at the end: what it gives (launchers of kernels) no student's cell replaces.
        again = [(f"{name} again", source) for name, source in self.master.setup]
        session = Session(
            self.fork_server, [*self.master.setup, *students, *right, *again], _job(item), self._limits(item)
        )
        try:
            try:
                session.start()
            except Failure as error:
                grade.reason = str(error)
                return
            finally:
                self._remember(session)
            for name in item.functions:
                if not session.defined.get(name):
                    grade.reason = self._missing(name, item, session)
                    return
            marks = _tests(item, session)
            grade.tests = [asdict(mark) for mark in marks.tests]
            grade.earned, grade.reason = min(marks.earned, item.points), marks.barred
        finally:
            session.end()

    def follow_through(self, item: Item, grade: Grade) -> None:
        """Grade again with right answers to the earlier questions whose functions this one calls; the better counts."""
        used = self.code.uses(item)
        solutions = {cell.name: without_tests(cell.source) for cell in read(self.master.text)[0]}
        before = self.master.items[: self.master.items.index(item)]
        earlier = [one for one in before if used & set(one.functions) and "torch" not in one.forbidden]
        if not earlier:
            return
        second = replace(grade, earned=0.0, reason="", tests=[])
        self.grade(item, second, tuple((f"right {one.name}", solutions[one.cell]) for one in earlier))
        if second.earned > grade.earned:
            names = ", ".join(f"`{name}` of {one.name}" for one in earlier for name in one.functions)
            grade.earned, grade.tests = second.earned, second.tests
            grade.reason = f"graded with a right {names} in place of yours, whose points are lost there"

    def _limits(self, item: Item) -> Limits:
        memory = min(self.limits.memory, item.memory << 20) if item.memory else self.limits.memory
        # Where exponentials are counted, nothing may run where they are not: in another thread or process.
        processes = 1 if "autograd" in item.forbidden else self.limits.processes
        return replace(self.limits, seconds=item.seconds, memory=memory, processes=processes)

    def _remember(self, session: Session) -> None:
        """Cells that did not end are not run again, nor slow ones that no question rests on."""
        self.skipped |= session.stuck
        for label, seconds in session.took.items():
            if seconds > SLOW and label in dict(self.code.sources) and label not in self.code.needed:
                self.skipped[label] = f"it took {seconds:.0f} s"

    def _kernels(self, item: Item) -> tuple[list[tuple[str, str]], str]:
        """The kernels of the submission as cells, and why there is none to grade."""
        cells, refused = kernels(self.code.statements)
        (solution,) = (cell for cell in read(self.master.text)[0] if cell.name == item.cell)
        there = {name for _, source in cells for name in defined(source)}
        for name in defined(solution.source):
            if name in refused:
                return (
                    [],
                    f"the kernel `{name}` uses {refused[name]!r}, which is no part of Triton's language",
                )
            if name not in there:
                return [], f"there is no function `{name}` under @triton.jit at the top of a cell"
        return cells, ""

    def _missing(self, name: str, item: Item, session: Session) -> str:
        """Why there is no function to grade."""
        if item.cell in self.skipped:
            return self.skipped[item.cell]
        if item.cell in session.errors:
            return f"the cell {item.cell} raised {session.errors[item.cell]}"
        if item.cell not in self.own:
            return f"the cell {item.cell} is missing, and no other cell defines `{name}`"
        close = difflib.get_close_matches(name, session.functions, n=1, cutoff=0.5)
        asked = f"; was it renamed to `{close[0]}`?" if close else ""
        return f"there is no function `{name}`{asked}"


def _job(item: Item) -> dict:
    """A question as the student's process gets it; see `student.serve`."""
    return {
        "library": item.library,
        "packages": [] if item.library else list(forbidden.PACKAGES),
        "forbidden": forbidden.names(item.forbidden),
        "operators": forbidden.operators(item.forbidden),
        "count": "autograd" in item.forbidden,
        "functions": list(item.functions),
    }


def _tests(item: Item, session: Session) -> multipole_lab.course.Marks:
    namespace = {"math": math, "torch": torch, "ml": multipole_lab}
    namespace |= {name: _remote(session, name) for name in item.functions}
    exec(compile(item.tests, f"<hidden tests of {item.name}>", "exec"), namespace)
    return namespace["marks"]


def _remote(session: Session, name: str) -> Callable:
    def call(*args: object, **kwargs: object) -> object:
        result = session.call(name, args, kwargs)
        call.exponentials = session.exponentials
        return result

    call.exponentials = 0
    return call
