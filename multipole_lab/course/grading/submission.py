"""Grading one submission: question by question, each in a process of its own."""

from __future__ import annotations

import difflib
import hashlib
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

import multipole_lab
from multipole_lab.course.grading import bounds
from multipole_lab.course.grading.notebook import (
    Cell,
    Item,
    Master,
    Unreadable,
    as_python,
    language,
    read_submission,
)
from multipole_lab.course.questions import forbidden
from multipole_lab.course.sandbox.session import Failure, ForkServer, Session
from multipole_lab.course.sandbox.walls import Limits

FORMAT = "multipole_lab grade 1"
TOTAL_SECONDS = 150.0  # for all questions of one submission together


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


def grade_submission(
    master: Master, path: Path, fork_server: ForkServer, limits: Limits | None = None
) -> dict:
    """Grade one notebook file; never raises for what is in it.

    Parameters
    ----------
    master : what it is graded by.
    path : the student's file; also one that does not exist.
    fork_server : of this worker.
    limits : for every question's process, whose own ``seconds`` come from the master.

    Returns
    -------
    dict, ready for JSON: ``problem`` (of the whole file, or ""), ``items`` (a `Grade` each), ``earned`` and
    ``possible`` (of questions that need no person), ``bonus``, ``notes``, ``seconds``.
    """
    began = time.monotonic()
    grades = [
        Grade(i.name, i.title, i.points, i.bonus, i.manual, None if i.manual else 0.0) for i in master.items
    ]
    problem, notes = "", set()
    try:
        cells, metadata = read_submission(path)
        if language(metadata) not in ("python", "ipython", "python3"):
            raise Unreadable(
                f"the notebook says that it is written in {language(metadata)[:40]!r}, not Python"
            )
        kernel = metadata.get("kernelspec")
        kernel = str(kernel.get("name", "python3"))[:60] if isinstance(kernel, dict) else "python3"
        if kernel != "python3":
            notes.add(f"the notebook names the kernel {kernel!r}; it was run by the grader's Python")
        _grade_cells(master, cells, fork_server, limits or Limits(), grades, notes, began)
    except Unreadable as error:
        problem = str(error)
        for grade in grades:
            grade.earned, grade.reason = 0.0, problem
    result = {
        "format": FORMAT,
        "assignment": master.name,
        "problem": problem,
        "earned": sum(g.earned or 0.0 for g in grades if not g.bonus and not g.manual),
        "possible": sum(g.points for g in grades if not g.bonus and not g.manual),
        "bonus": sum(g.earned or 0.0 for g in grades if g.bonus),
        "items": [asdict(grade) for grade in grades],
        "notes": sorted(notes),
        "seconds": round(time.monotonic() - began, 2),
    }
    return bounds.all_shown(result)


def _grade_cells(
    master: Master,
    cells: list[Cell],
    fork_server: ForkServer,
    limits: Limits,
    grades: list[Grade],
    notes: set[str],
    began: float,
) -> None:
    sources = _sources(master, cells)
    own = {cell.name: cell for cell in cells if cell.name}
    stuck: dict[str, str] = {}
    for item, grade in zip(master.items, grades, strict=True):
        cell = own.get(item.cell)
        if item.manual:
            grade.answer = cell.source if cell else ""
            continue
        if time.monotonic() - began > TOTAL_SECONDS:
            grade.reason = (
                f"the {TOTAL_SECONDS:.0f} s for one submission were used up by the questions before"
            )
            continue
        if cell and (name := forbidden.found_in(as_python(cell.source), item.forbidden)):
            grade.reason = f"the cell {item.cell} uses {name!r}, which this question does not allow"
            continue
        _grade_item(
            item, grade, [s for s in sources if s[0] not in stuck], cell, fork_server, limits, stuck, notes
        )


def _grade_item(
    item: Item,
    grade: Grade,
    sources: list[tuple[str, str]],
    cell: Cell | None,
    fork_server: ForkServer,
    limits: Limits,
    stuck: dict[str, str],
    notes: set[str],
) -> None:
    """Run one question's hidden tests here, in this process, on what the student's process answers."""
    job = {
        "library": item.library,
        "packages": [] if item.library else list(forbidden.PACKAGES),
        "forbidden": forbidden.names(item.forbidden),
        "functions": list(item.functions),
    }
    memory = min(limits.memory, item.memory << 20) if item.memory else limits.memory
    session = Session(fork_server, sources, job, replace(limits, seconds=item.seconds, memory=memory))
    try:
        try:
            session.start()
        except Failure as error:
            grade.reason = str(error)
            return
        finally:
            stuck |= session.stuck
        notes |= set(session.notes)
        for name in item.functions:
            if not session.defined.get(name):
                grade.reason = _missing(name, item, cell, session, stuck)
                return
        namespace = {"math": math, "torch": torch, "ml": multipole_lab}
        namespace |= {name: _remote(session, name) for name in item.functions}
        exec(compile(item.tests, f"<hidden tests of {item.name}>", "exec"), namespace)
        marks = namespace["marks"]
        grade.tests = [asdict(mark) for mark in marks.tests]
        grade.earned = min(marks.earned, item.points)
    finally:
        session.end()


def _remote(session: Session, name: str):
    def call(*args: object, **kwargs: object) -> object:
        return session.call(name, args, kwargs)

    return call


def _sources(master: Master, cells: list[Cell]) -> list[tuple[str, str]]:
    """What is run: the master's own set-up, then the student's cells, without those that the master gave."""
    given = master.own_cells
    students = [cell for cell in cells if cell.kind == "code" and cell.name not in given]
    labels: dict[str, int] = {}
    sources = list(master.setup)
    for number, cell in enumerate(students, 1):
        label = cell.name[:60] or f"extra cell {number}"
        labels[label] = labels.get(label, 0) + 1
        if labels[label] > 1:
            label = f"{label} ({labels[label]})"
        sources.append((label, as_python(cell.source)))
    # Once more at the end: what the master gives (the launchers of kernels) cannot be replaced by a student's cell.
    return sources + [(f"{name} again", source) for name, source in master.setup]


def _missing(name: str, item: Item, cell: Cell | None, session: Session, stuck: dict[str, str]) -> str:
    """Why there is no function to grade."""
    if item.cell in stuck:
        return stuck[item.cell]
    if item.cell in session.errors:
        return f"the cell {item.cell} raised {session.errors[item.cell]}"
    if cell is None:
        return f"the cell {item.cell} is missing, and no other cell defines `{name}`"
    close = difflib.get_close_matches(name, session.functions, n=1, cutoff=0.5)
    asked = f"; was it renamed to `{close[0]}`?" if close else ""
    return f"there is no function `{name}`{asked}"


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file; a word for what is none that is read: a link, none at all, a huge one, a closed one."""
    try:
        if path.is_symlink():
            return "link"
        if not path.is_file():
            return "missing"
        if (size := path.stat().st_size) > bounds.LARGEST:
            return f"{size} bytes"
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
