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
from multipole_lab.course.grading import markers, notebook
from multipole_lab.course.questions import checking
from multipole_lab.course.questions.compare import Wrong, same
from multipole_lab.course.questions.hints import ANY
from multipole_lab.course.questions.question import ASSIGNMENTS, find

VARIANTS = {"wrong": [], "right": []}
for path in sorted((Path(__file__).parent / "variants").glob("*.toml")):
    for kind, rows in tomllib.loads(path.read_text()).items():
        VARIANTS[kind] += rows
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
        graded[cell.name]: "".join(f"{line}\n" for line, _ in markers.parts(cell.source))
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


QUESTIONS = list(dict.fromkeys(row["question"] for row in VARIANTS["wrong"]))
per_question = pytest.mark.parametrize("question", QUESTIONS)


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


# --- what stands beside the hints ----


def changed(question, *changes, before=None):
    """A function among the right ones, with changes in its text; ``before``: changes of earlier questions."""
    assignment = question.split(".")[0]
    space = dict(solved(assignment))
    for name, edits in {**(before or {}), question: changes}.items():
        source = solutions(assignment)[0][name]
        for old, new in edits:
            assert old in source
            source = source.replace(old, new)
        run(source, space)
    # The other functions of the notebook are looked up in this copy, too.
    for name, source in solutions(assignment)[0].items():
        if name not in (before or {}) and name != question:
            run(source, space)
    return space[item_of(question).functions[0]]


def test_a_part_is_called_by_its_name_and_the_first_wrong_place_is_shown():
    printed = repr(ml.course.check("A1.2", changed("A1.2", ("largest + torch.log", "torch.log"))))
    assert "lse is off by up to" in printed
    assert "the first is [0]:" in printed
    assert "right is" in printed
    assert "the second of" not in printed


def test_a_message_gives_the_right_number_away_only_where_it_may():
    got, want = (torch.zeros(2, 3), torch.ones(2)), (torch.zeros(2, 3), torch.tensor([1.0, 3.0]))
    with pytest.raises(Wrong, match=r"lse is off by up to 2, with numbers up to 3; the first is \[1\]: 1$"):
        same(got, want, names=("out", "lse"))
    with pytest.raises(Wrong, match=r"the first is \[1\]: 1, right is 3$"):
        same(got, want, names=("out", "lse"), tell=True)
    with pytest.raises(Wrong, match=r"2 things \(out, lse\) are expected"):
        same(torch.zeros(2), want, names=("out", "lse"))


def test_a_block_of_a_plan_is_shown_whole():
    printed = repr(
        ml.course.check("A4.1", changed("A4.1", ("(stop - start + 1) // 2", "(stop - start) // 2")))
    )
    assert "item 0 of the result is (0, 1, 0, 1), right is (0, 2, 0, 2)" in printed


def test_a_number_too_large_for_a_float_is_wrong_and_no_error():
    with pytest.raises(Wrong, match="too large"):
        same(10**400, 1.0)


@pytest.mark.parametrize(
    ("question", "change", "name"),
    [
        (
            "A1.1",
            ("return grown / grown.sum(dim=1, keepdim=True)", "return torch.softmax(logits, 1)"),
            "softmax",
        ),
        ("A1.2", ("largest + torch.log(total)", "logits.logsumexp(1)"), "logsumexp"),
        ("A2.2", ("sums = torch", "import sklearn.cluster\n    sums = torch"), "sklearn.cluster"),
        ("A2.8", ("chosen = [first]", "ml.load_sample\n    chosen = [first]"), "ml"),
        ("A3.2", ("centred = k - w @ k", "torch.func.hessian\n    centred = k - w @ k"), "hessian"),
    ],
)
def test_check_itself_says_that_a_name_is_forbidden(question, change, name):
    result = ml.course.check(question, changed(question, change))
    assert not result
    assert f"it uses '{name}', which this question does not allow: the grader gives no points" in repr(result)
    assert len(result.failed) == 1, "the numbers are right"


def test_a_forbidden_name_in_a_helper_of_the_same_notebook_is_found():
    space = dict(solved("A1"))
    run(
        "def helper(x):\n    return x.softmax(1)\n\ndef weights(q, k, scale):\n    return helper(scale * q @ k.T)\n",
        space,
    )
    assert "it uses 'softmax'" in repr(ml.course.check("A1.1", space["weights"]))


@needs_the_interpreter
def test_a_kernel_is_looked_at_and_its_launcher_is_not():
    space = dict(solved("A5"))
    for text in solutions("A5")[1][1:]:
        run(text, space)
    source = solutions("A5")[0]["A5.2"]
    run(source, space)
    assert ml.course.check("A5.2", space["row_lse"])
    run(source.replace("row = tl", "torch.manual_seed(0)\n    row = tl"), space)
    assert "it uses 'torch'" in repr(ml.course.check("A5.2", space["row_lse"]))


def test_check_and_the_masters_forbid_the_same():
    for item in (item for name in ASSIGNMENTS for item in master(name).items if not item.manual):
        asked = find(item.name)
        assert (asked.forbidden, asked.library) == (item.forbidden, item.library), item.name
        functions = {
            name: one.name for one in master(item.name.split(".")[0]).items for name in one.functions
        }
        assert asked.uses.items() <= functions.items(), item.name


SLIPS = [
    ("A1.8", "A1.1", ("logits - logits.amax(dim=1, keepdim=True)", "logits"), "`weights` (question A1.1)"),
    ("A2.3", "A2.1", ("argmin", "argmax"), "`assign` (question A2.1)"),
    (
        "A2.3",
        "A2.2",
        ("sums / counts.clamp(min=1), centroids", "sums, centroids"),
        "`update` (question A2.2)",
    ),
    ("A3.5", "A3.3", ("0.5 * s**2", "s**2"), "`mass` (question A3.3)"),
    ("A4.3", "A4.1", ("    blocks.append((middle, stop, start, middle))\n", ""), "`plan` (question A4.1)"),
    ("A4.5", "A4.4", ("(q1 - q0 + k1 - k0) * clusters", "(q1 - q0) * clusters"), "`work` (question A4.4)"),
]


@pytest.mark.parametrize(
    ("question", "earlier", "slip", "said"), SLIPS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_slip_of_an_earlier_question_is_named_there(question, earlier, slip, said):
    result = ml.course.check(question, changed(question, before={earlier: [slip]}))
    assert not result
    assert result.hints == (f"this one is right: what is wrong comes from {said}.",)


def test_a_slip_of_ones_own_is_found_behind_an_earlier_one():
    own = changed(
        "A2.3", ("range(iterations)", "range(iterations + 1)"), before={"A2.1": [("argmin", "argmax")]}
    )
    result = ml.course.check("A2.3", own)
    assert result.hints == ("one round too many.", "`assign` (question A2.1) is not right yet, either.")
    assert own.__globals__["assign"](torch.zeros(1, 2), torch.eye(2) * math.pi) == 0, (
        "the student's own is back"
    )
