"""Grading one submission: question by question, each in a process of its own."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from pathlib import Path

from multipole_lab.course.cells.code import Code
from multipole_lab.course.grading import bounds
from multipole_lab.course.grading.markers import without_tests
from multipole_lab.course.grading.notebook import (
    Cell,
    Master,
    Unreadable,
    language,
    read,
    read_submission,
)
from multipole_lab.course.grading.run import Grade, Run, blank
from multipole_lab.course.sandbox.session import ForkServer
from multipole_lab.course.sandbox.walls import Limits

FORMAT = "multipole_lab grade 1"
TOTAL_SECONDS = 150.0  # for all questions of one submission together


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
        grades, more = _grade_cells(master, cells, fork_server, limits or Limits())
        notes |= more
    except Unreadable as error:
        problem = str(error)
        grades = blank(master)
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


def rehearse(master: Master, fork_server: ForkServer, limits: Limits | None = None) -> None:
    """Grade the master's own solutions, as those of a student.

    Raises
    ------
    ValueError : they do not get full marks here, so that nobody can be graded; the message has the tests and reasons.
    NoWalls : this machine refuses what keeps submissions apart, and ``limits.unsafe`` is not set.
    """
    cells, _ = read(master.text)
    own = [replace(cell, source=without_tests(cell.source)) for cell in cells if cell.grade.get("solution")]
    grades, _ = _grade_cells(master, own, fork_server, limits or Limits())
    lost = [
        f"{grade.question} {test['name'] if test else ''}: {test['reason'] if test else grade.reason}"
        for grade in grades
        for test in (grade.tests or [{}])
        if not grade.manual and (grade.earned or 0.0) < grade.points and (not test or test["reason"])
    ]
    if lost:
        raise ValueError(
            f"the solutions of {master.name} itself do not get full marks on this machine, so nobody was graded:\n"
            + "\n".join(f"  - {line}" for line in lost)
        )


def _grade_cells(
    master: Master, cells: list[Cell], fork_server: ForkServer, limits: Limits
) -> tuple[list[Grade], set[str]]:
    """Every question's `Grade`, and what else the instructor and the student should know."""
    began = time.monotonic()
    grades = blank(master)
    code = Code.of(master, cells)
    own = {cell.name: cell for cell in cells if cell.name}
    run = Run(master, code, own, fork_server, limits)
    for item, grade in zip(master.items, grades, strict=True):
        if item.manual:
            grade.answer = own[item.cell].source if item.cell in own else ""
        elif time.monotonic() - began > TOTAL_SECONDS:
            grade.reason = (
                f"the {TOTAL_SECONDS:.0f} s for one submission were used up by the questions before"
            )
        else:
            run.grade(item, grade)
            if grade.earned < item.points and time.monotonic() - began < TOTAL_SECONDS:
                run.follow_through(item, grade)
    return grades, run.notes


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
