"""`multipole-lab course verify`: whether an assignment can be handed out and graded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import multipole_lab
from multipole_lab.course.grading import release
from multipole_lab.course.grading.notebook import Item, Master, load_master, read
from multipole_lab.course.grading.submission import grade_submission
from multipole_lab.course.questions.checking import check
from multipole_lab.course.questions.question import Random, find
from multipole_lab.course.sandbox.session import ForkServer
from multipole_lab.course.sandbox.walls import Limits

SEEDS = 20


def verify(
    name: str, masters: Path | None = None, limits: Limits | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Everything that an assignment promises, one promise after the other.

    Yields
    ------
    (what is promised, what is wrong with it): the list is empty where it holds. After the first promise that does
    not hold of the notebook and its questions, nothing that rests on them is tried.

    Raises
    ------
    ValueError : no such assignment, or its questions cannot be read.
    MissingPackage : without nbgrader.
    """
    release.require_tools()
    master = load_master(name, masters)
    wrong = list(_disagreements(master))
    yield "the notebook and its questions agree", wrong
    if wrong:
        return
    graded = [item for item in master.items if not item.manual]
    yield "every known mistake is noticed and named", [line for item in graded for line in _unnamed(item)]
    yield (
        "the hidden tests use other inputs than the checks",
        [line for item in graded for line in _shown(item)],
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            written = release.release(name, Path(folder, "students"), masters)
            leaks = []
            yield "the students' files hold no solution and no hidden test", leaks
            solved = release.solutions(name, Path(folder, "solved"), masters)
            with ForkServer(0, [], master.interpret) as fork_server:
                full = grade_submission(master, solved, fork_server, limits)
                none = grade_submission(master, written, fork_server, limits)
    except release.Leak as error:
        yield "the students' files hold no solution and no hidden test", [str(error)]
        return
    yield "the solutions get full marks", list(_lost(full))
    yield "the points of the tests add up to those of the questions", list(_sums(full))
    earned = [f"{i['question']} has {i['earned']} points" for i in none["items"] if i["earned"]]
    yield "the students' notebook, as it is handed out, gets no points", earned


def _disagreements(master: Master) -> Iterator[str]:
    cells, _ = read(master.text)
    ids = [cell.name for cell in cells]
    yield from (
        f"two cells have the grade_id {one!r}" for one in sorted({i for i in ids if ids.count(i) > 1})
    )
    solutions = {cell.name for cell in cells if cell.grade.get("solution")}
    if not master.items:
        yield "no cell is graded: a question's last cell has grade true, and points, in nbgrader's metadata"
    for item in master.items:
        if not item.name.startswith(f"{master.name}."):
            yield f"the question {item.name!r} is not called {master.name}.1 or so"
        if not isinstance(item.points, int | float) or item.points <= 0:
            yield f"{item.name} has {item.points!r} points"
        if item.cell not in solutions:
            yield f"{item.name} names the cell {item.cell!r} for the solution; there are {', '.join(sorted(solutions))}"
        if item.manual:
            continue
        if "marks.earned" not in item.tests:
            yield f"{item.name}: the hidden tests do not end with marks.earned"
        try:
            find(item.name)
        except ValueError as error:
            yield str(error)


def _unnamed(item: Item) -> Iterator[str]:
    asked = find(item.name)
    if not check(item.name, asked.oracle):
        yield f"{item.name}: the right answer is not right by its own check: {check(item.name, asked.oracle)}"
    for hint, ways in asked.mistakes.items():
        for way in ways if isinstance(ways, tuple) else (ways,):
            result = check(item.name, way)
            if result:
                yield f"{item.name}: the mistake {hint!r} is right on all inputs"
            elif hint not in result.hints:
                yield f"{item.name}: the mistake {hint!r} is answered with {' '.join(result.hints)!r}"


def _shown(item: Item) -> Iterator[str]:
    """Inputs of the hidden tests that a check has shown; the tests run here, on right answers."""
    asked = find(item.name)
    shown = {_print(args) for seed in range(SEEDS) for _, args in asked.cases(Random(seed))}
    used = []

    def spy(*args: object) -> object:
        used.append(_print(args))
        return asked.oracle(*args)

    namespace = {"math": math, "torch": torch, "ml": multipole_lab} | dict.fromkeys(item.functions, spy)
    exec(compile(item.tests, f"<hidden tests of {item.name}>", "exec"), namespace)
    if set(used) & shown:
        yield f"{item.name}: {len(set(used) & shown)} inputs of the hidden tests are tried by the check as well"


def _print(value: object) -> str:
    """Something short that tells inputs apart."""
    if isinstance(value, torch.Tensor):
        return (
            f"{list(value.shape)} {value.double().nan_to_num().sum().item()!r} {value.flatten()[:3].tolist()}"
        )
    if isinstance(value, tuple | list):
        return str([_print(one) for one in value[:6]])
    return repr(value)


def _lost(result: dict) -> Iterator[str]:
    for item in result["items"]:
        if item["manual"] or item["earned"] == item["points"]:
            continue
        reasons = [f"{test['name']}: {test['reason']}" for test in item["tests"] if test["reason"]]
        yield f"{item['question']} gets {item['earned']} of {item['points']}: {'; '.join(reasons) or item['reason']}"


def _sums(result: dict) -> Iterator[str]:
    for item in result["items"]:
        points = sum(test["points"] for test in item["tests"])
        if not item["manual"] and abs(points - item["points"]) > 1e-9:
            yield f"{item['question']}: the tests give {points:g} points, the cell's metadata {item['points']:g}"
