"""`multipole-lab course verify`: whether an assignment can be handed out and graded."""

from __future__ import annotations

import math
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import multipole_lab
from multipole_lab.course.grading import release
from multipole_lab.course.grading.notebook import BrokenMaster, Item, Master, load_master, read
from multipole_lab.course.grading.submission import grade_submission
from multipole_lab.course.questions.checking import judge
from multipole_lab.course.questions.own import path_of
from multipole_lab.course.questions.question import Question, Random, find
from multipole_lab.course.sandbox.session import ForkServer
from multipole_lab.course.sandbox.walls import Limits

SEEDS = 20
# {a field that nbgrader needs in each of its cells: what is allowed}
_NBGRADER = {
    "grade_id": "a name that no other cell has",
    "schema_version": "3",
    **dict.fromkeys(("grade", "solution", "locked"), "true or false"),
}


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
    ValueError : no such assignment, or no questions beside it.
    MissingPackage : without nbgrader.
    """
    release.require_tools()
    try:
        master = load_master(name, masters)
        wrong = list(dict.fromkeys(_disagreements(master)))
    except BrokenMaster as error:
        wrong = error.problems
    yield "the notebook and its questions agree", wrong
    if wrong:
        return
    graded = [item for item in master.items if not item.manual]
    yield (
        "every known mistake is noticed and named",
        [line for item in graded for line in _told(item, _unnamed)],
    )
    wrong = [line for item in graded for line in _told(item, _shown)]
    yield "the hidden tests use other inputs than the checks", wrong
    if wrong:
        return
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
    for cell in cells:
        for name in (one for one in _NBGRADER if cell.grade and one not in cell.grade):
            called = cell.name or f"the cell {cell.source[:40]!r}"
            yield f"{called}: the metadata nbgrader has no {name!r}; {_NBGRADER[name]} is needed"
    solutions = {cell.name for cell in cells if cell.grade.get("solution")}
    if not master.items:
        yield "no cell is graded: a question's last cell has grade true, and points, in nbgrader's metadata"
    for item in master.items:
        if not item.name.startswith(f"{master.name}."):
            yield f"the question {item.name!r} is not called {master.name}.1 or so"
        if item.points == 0:
            yield f"{item.name} has 0 points; a number above 0 is needed"
        if item.cell not in solutions:
            yield f"{item.name} names the cell {item.cell!r} for the solution; there are {', '.join(sorted(solutions))}"
        if item.manual:
            continue
        if "marks.earned" not in item.tests:
            yield f"{item.name}: the hidden tests do not end with marks.earned"
        try:
            yield from _differences(item, find(item.name))
        except ValueError as error:
            yield str(error)


def _differences(item: Item, asked: Question) -> Iterator[str]:
    """What the metadata of a question's cell and its entry in the questions' file both say, and not alike."""
    if not isinstance(asked, Question):
        yield f"QUESTIONS[{item.name!r}] is of the type {type(asked).__name__}; a Question is needed"
        return
    if set(item.forbidden) != set(asked.forbidden):
        yield (
            f"{item.name}: forbidden is {list(item.forbidden)} in the metadata of its tests, and "
            f"{list(asked.forbidden)} in Question(forbidden=...): both need the same"
        )
    if item.library != asked.library:
        yield (
            f"{item.name}: library is {item.library} in the metadata of its tests, and {asked.library} in "
            "Question(library=...): both need the same"
        )


def _unnamed(item: Item) -> Iterator[str]:
    asked = find(item.name)
    right = judge(item.name, asked.oracle)
    if not right:
        yield f"{item.name}: the right answer is not right by its own check: {right}"
    alike = set()
    for hint, ways in asked.mistakes.items():
        for way in ways if isinstance(ways, tuple) else (ways,):
            result = judge(item.name, way)
            if result:
                yield f"{item.name}: the mistake {hint!r} is right on all inputs"
            elif hint not in result.hints:
                yield f"{item.name}: the mistake {hint!r} is answered with {' '.join(result.hints)!r}"
            else:
                alike |= {frozenset((hint, other)) for other in result.hints if other in asked.mistakes}
    for pair in sorted(sorted(both) for both in alike if len(both) > 1):
        yield f"{item.name}: no input tells the mistakes {pair[0]!r} and {pair[1]!r} apart"


def _told(item: Item, look: Callable[[Item], Iterator[str]]) -> Iterator[str]:
    """What a look at a question finds; whatever its own functions and tests raise is a line, too."""
    try:
        yield from look(item)
    except Exception as error:
        questions = path_of(item.name.split(".")[0], Path()).name
        places = [(Path(at.filename).name, at.lineno) for at in traceback.extract_tb(error.__traceback__)]
        theirs = [f"{file}, line {line}: " for file, line in places if file == questions or file[0] == "<"]
        said = f"{type(error).__name__}: {str(error)[:200]}"
        yield f"{item.name}: {theirs[-1] if theirs else ''}{said}"


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
        why = "; ".join(reasons) or item["reason"] or "no test failed, so they have no more points to give"
        yield f"{item['question']} gets {item['earned']} of {item['points']}: {why}"


def _sums(result: dict) -> Iterator[str]:
    for item in result["items"]:
        points = sum(test["points"] for test in item["tests"])
        if not item["manual"] and abs(points - item["points"]) > 1e-9:
            yield f"{item['question']}: the tests give {points:g} points, the cell's metadata {item['points']:g}"
