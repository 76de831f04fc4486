"""Every assignment: solutions score everything, stubs nothing, releases leak nothing, checks name the mistake."""

import json
import linecache
import time
from dataclasses import replace

import nbformat
import pytest
import torch

import multipole_lab as ml
from multipole_lab import cli
from multipole_lab.course.grading import markers, notebook, release
from multipole_lab.course.grading.submission import grade_submission
from multipole_lab.course.questions import forbidden
from multipole_lab.course.questions.question import ASSIGNMENTS, Random, find
from multipole_lab.course.sandbox.session import ForkServer

MASTERS = {name: notebook.load_master(name) for name in ASSIGNMENTS}
QUESTIONS = [(name, item) for name in ASSIGNMENTS for item in MASTERS[name].items if not item.manual]
per_assignment = pytest.mark.parametrize("name", ASSIGNMENTS)
per_question = pytest.mark.parametrize(("name", "item"), QUESTIONS, ids=[item.name for _, item in QUESTIONS])


def run_cells(cells, namespace):
    """Execute code cells as a notebook does, go on after errors; returns what was raised."""
    raised = []
    for i, cell in enumerate(cells):
        if cell.kind != "code":
            continue
        filename = f"<{cell.name or i} {id(namespace)}>"
        linecache.cache[filename] = (1, None, cell.source.splitlines(True), filename)
        try:
            exec(compile(cell.source, filename, "exec"), namespace)
        except Exception as error:
            raised.append(error)
    return raised


@pytest.fixture(scope="module")
def solved():
    """{assignment: the namespace of its solutions}."""
    spaces = {}
    for name, master in MASTERS.items():
        cells = notebook.read(master.text)[0]
        chosen = [c for c in cells if c.grade.get("solution") or c.extra.get("role") == "setup"]
        spaces[name] = {"__name__": f"solutions_of_{name}"}
        assert run_cells(chosen, spaces[name]) == []
    return spaces


# --- masters --------------------------------------------------------------------------------------


@per_assignment
def test_a_master_has_what_an_assignment_needs(name):
    master = MASTERS[name]
    assert sum(item.points for item in master.items if not item.bonus) == 40
    assert [item.manual for item in master.items].count(True) == 1
    assert [item.bonus for item in master.items].count(True) == 1
    text = "\n".join(cell.source for cell in notebook.read(master.text)[0])
    for needed in ("By the end you will be able to", "**Time**", "## Background", "## What to remember"):
        assert needed in text


@per_assignment
def test_a_masters_metadata_is_as_nbgrader_wants_it(name):
    steps = pytest.importorskip("nbgrader.preprocessors")
    content = nbformat.reads(MASTERS[name].text, as_version=4)
    nbformat.validate(content)
    steps.CheckCellMetadata().preprocess(content, {})
    ids = [cell.metadata.nbgrader.grade_id for cell in content.cells]
    assert len(ids) == len(set(ids))


# --- releases -------------------------------------------------------------------------------------


@per_assignment
def test_a_release_is_the_same_twice_and_leaks_nothing(name, tmp_path):
    pytest.importorskip("nbgrader")
    path = release.release(name, tmp_path / "one")
    again = release.release(name, tmp_path / "two")
    assert path.read_bytes() == again.read_bytes()
    text = path.read_text()
    assert release.leaks(MASTERS[name], text) == []
    assert "HIDDEN TESTS" not in text
    assert "Random(4" not in text, "the seed of a hidden test"
    assert text.count("raise NotImplementedError") == len([i for i in MASTERS[name].items if not i.manual])
    cells, _ = notebook.read(text)
    given = [cell.name for cell in notebook.read(MASTERS[name].text)[0]]
    assert [cell.name for cell in cells] == given, "no cell is lost"


def planted(name, secret, where):
    """A release of that assignment into which one secret line got."""
    content = json.loads(release.student_text(MASTERS[name]))
    if where == "a cell":
        content["cells"][-1]["source"].append("\n" + secret)
    elif where == "an output":
        content["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [secret]}]
    elif where == "metadata":
        content["metadata"]["note"] = secret
    elif where == "a longer line":
        content["cells"][-1]["source"].append(f"\n# {secret} # remember")
    return json.dumps(content)


SECRETS = [
    ("A1", "return grown / grown.sum(dim=1, keepdim=True)"),
    ("A1", "share = torch.exp(gone_lse - lse)  # of the weight that goes, [Nq]"),
    ("A1", "r = ml.course.Random(4101)"),
    ("A1", "marks.earned"),
    ("A2", "return position, float(share[position])"),
    ("A3", "1. Slopes 1, 2 and 3: the error of order m is the next term of Taylor's series."),
]


@pytest.mark.parametrize("where", ["a cell", "an output", "metadata", "a longer line"])
@pytest.mark.parametrize(("name", "secret"), SECRETS, ids=[secret[:30] for _, secret in SECRETS])
def test_a_planted_leak_is_found(name, secret, where):
    pytest.importorskip("nbgrader")
    assert secret in "\n".join(cell.source for cell in notebook.read(MASTERS[name].text)[0])
    assert release.leaks(MASTERS[name], planted(name, secret, where))


def test_a_solution_outside_its_delimiters_stops_the_release(tmp_path):
    """An instructor pastes a line of a solution into the text."""
    pytest.importorskip("nbgrader")
    content = json.loads(MASTERS["A1"].text)
    content["cells"][0]["source"].append("\nHint: `shrink = torch.exp(largest - higher)`")
    (tmp_path / "A1.ipynb").write_text(json.dumps(content))
    with pytest.raises(release.Leak, match="shrink = torch"):
        release.release("A1", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


@per_assignment
def test_the_released_stubs_fail_with_NotImplementedError_only(name):
    pytest.importorskip("nbgrader")
    cells, _ = notebook.read(release.student_text(MASTERS[name]))
    namespace = {"__name__": f"released_{name}"}
    tests = [cell for cell in cells if cell.extra.get("question") and cell.kind == "code"]
    needed = [cell for cell in cells if cell.extra.get("role") != "look"]
    raised = run_cells(needed, namespace)
    assert [type(error) for error in raised] == [NotImplementedError] * len(tests)


@per_assignment
def test_the_solutions_notebook_has_solutions_and_no_tests(name, tmp_path):
    path = release.solutions(name, tmp_path)
    cells, _ = notebook.read(path.read_text())
    text = "\n".join(cell.source for cell in cells)
    assert 'NotImplementedError"' not in text
    assert "marks" not in text
    assert not any(mark in text for mark in markers.DELIMITERS)


# --- grading --------------------------------------------------------------------------------------


@per_assignment
def test_solutions_score_everything_and_stubs_nothing(name, tmp_path):
    pytest.importorskip("nbgrader")
    master = MASTERS[name]
    with ForkServer(0, [], master.interpret) as fork_server:
        full = grade_submission(master, release.solutions(name, tmp_path), fork_server)
        none = grade_submission(master, release.release(name, tmp_path), fork_server)
    lost = [(i["question"], t["name"], t["reason"]) for i in full["items"] for t in i["tests"] if t["reason"]]
    assert lost == []
    assert (full["earned"], full["possible"], full["bonus"]) == (36, 36, 4)
    for item in full["items"]:
        assert item["manual"] or sum(test["points"] for test in item["tests"]) == pytest.approx(
            item["points"]
        )
    assert (none["earned"], none["bonus"]) == (0, 0)
    said = {test["reason"] for item in none["items"] for test in item["tests"]}
    assert said
    assert all("is not written yet" in reason for reason in said)


def test_a_launcher_of_the_master_cannot_be_replaced(tmp_path):
    """In assignment 5 the kernel is graded: a student's own `row_lse` in torch is not called."""
    master = MASTERS["A5"]
    source = "def row_lse(x):\n    return torch.logsumexp(x, 1)\nrow_lse_kernel = launch = None"
    content = {"cells": [{"cell_type": "code", "metadata": {}, "source": source}]}
    (tmp_path / "A5.ipynb").write_text(json.dumps(content))
    one = replace(master, items=tuple(item for item in master.items if item.name == "A5.2"))
    with ForkServer(0, [], True) as fork_server:
        (item,) = grade_submission(one, tmp_path / "A5.ipynb", fork_server)["items"]
    assert item["earned"] == 0
    assert "@triton.jit" in item["reason"]


@pytest.mark.parametrize(
    ("source", "groups", "found"),
    [
        ("def f(x):\n    return x.softmax(1)", ("softmax",), "softmax"),
        (
            "from torch.nn.functional import scaled_dot_product_attention as g",
            ("softmax",),
            "scaled_dot_product_attention",
        ),
        ("import torch\ntorch.ops.aten._softmax", ("softmax",), "_softmax"),
        ("y.backward()", ("autograd",), "backward"),
        ("import torch as t", ("torch",), "torch"),
        (
            "def f(x):\n    '''no softmax here'''\n    softmaxed = x.exp()\n    return softmaxed",
            ("softmax",),
            None,
        ),
        ("x.softmax(1)", (), None),
        ("def f(:", ("softmax",), None),
    ],
)
def test_forbidden_names_are_found_in_code_and_not_in_words(source, groups, found):
    assert forbidden.found_in(source, groups) == found


# --- checks for students --------------------------------------------------------------------------


@per_question
def test_the_solution_passes_its_check_in_time(solved, name, item):
    if name == "A5" and torch.cuda.is_available():
        pytest.skip(
            "A5's kernels run in Triton's interpreter, asked for before Triton is imported; here is a GPU"
        )
    began = time.process_time()
    result = ml.course.check(item.name, solved[name][item.functions[0]])
    assert result, result
    assert time.process_time() - began < 5


def fingerprint(value):
    """Something short that tells inputs apart."""
    if isinstance(value, torch.Tensor):
        return f"{list(value.shape)} {value.double().nan_to_num().sum().item()!r}"
    if isinstance(value, tuple | list):
        return str([fingerprint(one) for one in value[:6]])
    return repr(value)


@per_question
def test_hidden_tests_use_other_inputs_than_the_check(solved, name, item):
    """No argument of a check ever reaches the hidden tests."""
    shown = {fingerprint(args) for seed in range(20) for _, args in find(item.name).cases(Random(seed))}
    asked = []

    def spy(*args):
        asked.append(fingerprint(args))
        return solved[name][item.functions[0]](*args)

    exec(item.tests, {"ml": ml, "torch": torch, "math": __import__("math"), item.functions[0]: spy})
    assert asked
    assert not set(asked) & shown


def test_check_lets_the_stub_say_that_it_is_one():
    def stub(*args):
        raise NotImplementedError("your code here")

    with pytest.raises(NotImplementedError, match="your code here"):
        ml.course.check("A1.1", stub)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda q, k, scale: None, "is there a `return`"),
        (lambda q, k, scale: 3.0, "a tensor is expected"),
        (lambda q, k, scale: (scale * q @ k.T).softmax(1).T, "axes swapped"),
        (lambda q, k, scale: (scale * q @ k.T).softmax(1) + torch.nan, "NaN in"),
        (lambda q, k, scale: q.mul_(scale) @ k.T, "off by"),
        (lambda q: q, "TypeError"),
        (lambda q, k, scale: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_check_says_what_is_wrong_where_no_known_mistake_fits(function, said):
    result = ml.course.check("A1.1", function)
    assert not result
    assert said in repr(result)


def test_check_notices_a_changed_input():
    def changes(q, k, scale):
        q *= scale
        return (q @ k.T).softmax(1)

    assert "your function has changed" in repr(ml.course.check("A1.1", changes))


@pytest.mark.parametrize(("question", "said"), [("A9.1", "A1, A2"), ("A1.99", "A1.1, A1.2"), (7, "such as")])
def test_check_lists_the_questions_there_are(question, said):
    with pytest.raises(ValueError, match=said):
        ml.course.check(question, print)


def test_check_wants_the_function_itself():
    with pytest.raises(TypeError, match="without brackets"):
        ml.course.check("A1.1", 5)


# --- the command -----------------------------------------------------------------------------------


def test_the_command_releases_and_says_what_is_wrong(tmp_path, capsys):
    pytest.importorskip("nbgrader")
    assert cli.main(["course", "release", "A1", "A2", "--to", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"A1.ipynb", "A2.ipynb"}
    assert cli.main(["course", "solutions", "A1", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "A1_solutions.ipynb").is_file()
    capsys.readouterr()
    assert cli.main(["course", "release", "A7", "--to", str(tmp_path)]) == 1
    assert "no assignment 'A7'" in capsys.readouterr().err
    assert cli.main(["course", "grade", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 1
    assert "no folder" in capsys.readouterr().err
    assert cli.main(["course", "report", str(tmp_path)]) == 1
    assert "course grade" in capsys.readouterr().err
