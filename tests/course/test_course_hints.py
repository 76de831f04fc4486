"""What `check` says of wrong answers: nearly four hundred that students write, each with the hint that names it.

The variants stand in ``variants/a1.toml`` and so on: a change of the master's solution, or a function in its place.
"""

import linecache
import math
import tomllib
from functools import cache
from itertools import count
from pathlib import Path

import pytest
import torch

import multipole_lab as ml
from multipole_lab.course.grading import notebook
from multipole_lab.course.questions import checking
from multipole_lab.course.questions.hints import ANY
from multipole_lab.course.questions.question import ASSIGNMENTS, find

VARIANTS = {"wrong": [], "right": []}
for path in sorted((Path(__file__).parent / "variants").glob("*.toml")):
    for kind, rows in tomllib.loads(path.read_text()).items():
        VARIANTS[kind] += rows
QUESTIONS = list(dict.fromkeys(row["question"] for row in VARIANTS["wrong"]))
per_question = pytest.mark.parametrize("question", QUESTIONS)
needs_the_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="A5's kernels run in Triton's interpreter, asked for before Triton is imported",
)
number = count()


@cache
def master(assignment):
    return notebook.load_master(assignment)


def item_of(question):
    return next(item for item in master(question.split(".")[0]).items if item.name == question)


def run(source, namespace):
    """Execute a cell whose text can be looked up again, as in a notebook."""
    filename = f"<variant {next(number)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    exec(compile(source, filename, "exec"), namespace)


@cache
def solutions(assignment):
    """({question: the text of its solution}, the master's own cells)."""
    cells, _ = notebook.read(master(assignment).text)
    graded = {item.cell: item.name for item in master(assignment).items if not item.manual}
    texts = {
        graded[cell.name]: "".join(f"{line}\n" for line, _ in notebook.parts(cell.source))
        for cell in cells
        if cell.name in graded
    }
    return texts, [cell.source for cell in cells if cell.extra.get("role") == "setup"]


@cache
def solved(assignment):
    texts, setup = solutions(assignment)
    space = {"__name__": f"variants_of_{assignment}"}
    for source in (*setup, *texts.values()):
        run(source, space)
    return space


def functions(row):
    """The functions of a variant's question, among right solutions of the other ones."""
    question = row["question"]
    texts, setup = solutions(question.split(".")[0])
    source = row.get("code", texts[question])
    for old, new in row.get("change", []):
        assert old in source, f"{question} {row['name']}: {old!r} is not in the solution any more"
        source = source.replace(old, new)
    space = dict(solved(question.split(".")[0]))
    for text in (*setup[1:], source):  # launchers find their kernel in this copy
        run(text, space)
    return {name: space[name] for name in item_of(question).functions}


def function(row):
    return next(iter(functions(row).values()))


@pytest.fixture
def few_inputs(monkeypatch):
    """One seed of three: a mistake that is told from the others by these is told from them by all."""
    monkeypatch.setattr(checking, "SEEDS", (0,))
    checking._cases.cache_clear()
    yield
    checking._cases.cache_clear()


def named(row, hints):
    return [hint for hint in hints if any(piece in hint for piece in row["hint"].split("|"))]


@needs_the_interpreter
@per_question
def test_a_wrong_answer_gets_the_hint_of_its_mistake_and_no_other(question, few_inputs):
    rows = [row for row in VARIANTS["wrong"] if row["question"] == question]
    lost = []
    for row in rows:
        result = ml.course.check(question, function(row))
        assert not result, f"{row['name']}: this mistake is not noticed"
        if named(row, result.hints) != list(result.hints):
            lost.append(f"{row['name']}: {result}")
    assert not lost, "\n".join(lost)


def test_the_variants_are_many_and_of_every_question():
    assert len(VARIANTS["wrong"]) >= 120
    assert len(VARIANTS["right"]) >= 20
    graded = {item.name for name in ASSIGNMENTS for item in master(name).items if not item.manual}
    assert {row["question"] for row in VARIANTS["wrong"]} == graded
    for row in VARIANTS["wrong"]:
        assert row["hint"] not in (find(row["question"]).hint, ANY), (
            f"{row['name']}: that hint is a general one"
        )


@needs_the_interpreter
@pytest.mark.parametrize("row", VARIANTS["right"], ids=lambda row: f"{row['question']}-{row['name']}")
def test_a_right_answer_written_in_another_way_gets_no_hint_and_full_marks(row):
    answers = functions(row)
    result = ml.course.check(row["question"], next(iter(answers.values())))
    assert result, result
    assert result.hints == ()
    item = item_of(row["question"])
    space = {"ml": ml, "torch": torch, "math": math} | answers
    exec(item.tests, space)
    assert space["marks"].earned == item.points, [mark.reason for mark in space["marks"].tests]


def ways():
    """(question, sentence, one way of making that mistake) of all known mistakes."""
    for question in QUESTIONS:
        for sentence, known in find(question).mistakes.items():
            for way in known if isinstance(known, tuple) else (known,):
                yield question, sentence, way


@per_question
def test_every_known_mistake_is_named_and_no_other(question, few_inputs):
    for _, sentence, way in (one for one in ways() if one[0] == question):
        result = ml.course.check(question, way)
        assert not result, f"{sentence}: this mistake is not noticed"
        assert result.hints == (sentence,), f"{sentence}: {result}"


def test_no_sentence_is_general():
    for question, sentence, _ in ways():
        assert sentence not in (find(question).hint, ANY)
