"""Grading one question of a submission whose other cells are the master's solutions."""

from functools import cache

from multipole_lab.course.cells.code import Code
from multipole_lab.course.grading import markers, notebook
from multipole_lab.course.grading.run import Grade, Run
from multipole_lab.course.sandbox.walls import Limits


@cache
def master(name):
    return notebook.load_master(name)


@cache
def solved(name):
    """The master's solutions, as a student's cells."""
    return tuple(
        notebook.Cell("code", markers.without_tests(cell.source), {"grade_id": cell.name})
        for cell in notebook.read(master(name).text)[0]
        if cell.grade.get("solution") and cell.kind == "code"
    )


def grade_one(fork_server, question, source=None, extra=(), before=(), grade_id="", seconds=None):
    """Grade a question whose own cell has this source; None leaves the solution there.

    Parameters
    ----------
    extra, before : cells that the student has added behind and before all others.
    grade_id : of the question's cell, where the student has changed it.
    seconds : for the question, where fewer than usual.
    """
    name = question.split(".")[0]
    (item,) = (item for item in master(name).items if item.name == question)
    changed = [
        notebook.Cell("code", source, {"grade_id": grade_id or cell.name})
        if cell.name == item.cell and source is not None
        else cell
        for cell in solved(name)
    ]
    added = [[notebook.Cell("code", text) for text in texts] for texts in (before, extra)]
    cells = [*added[0], *changed, *added[1]]
    own = {cell.name: cell for cell in cells if cell.name}
    run = Run(master(name), Code.of(master(name), cells), own, fork_server, Limits(memory=1 << 30))
    grade = Grade(item.name, item.title, item.points)
    run.grade(item, grade)
    if grade.earned < item.points:
        run.follow_through(item, grade)
    return grade, run
