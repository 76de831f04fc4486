"""An assignment of one's own: the guide, followed to the letter, leads to one that works; what is wrong is named."""

import csv
import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest

import multipole_lab as ml
from multipole_lab import cli
from multipole_lab.course.export import archive, otter_plugin
from multipole_lab.course.export.gradescope import gradescope
from multipole_lab.course.export.nbgrader_course import nbgrader
from multipole_lab.course.export.otter import otter
from multipole_lab.course.grading.notebook import load_master
from multipole_lab.course.own.create import create
from multipole_lab.course.own.verify import _lost, verify

GUIDE = Path(__file__).resolve().parents[3] / "notebooks" / "assignments" / "README.md"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def blocks():
    """The guide's section, as a list of (language, content) of its blocks."""
    text = GUIDE.read_text(encoding="utf-8").split("\n## An assignment of your own\n")[1]
    found = []
    for before, kind, content in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if re.search("^## ", before, re.MULTILINE):
            break  # the next section
        found.append((kind, content))
    return found


def run(console):
    """Run every line of a block, as typed; all must end well."""
    for line in console.strip().splitlines():
        program, *args = shlex.split(line)
        assert program == "multipole-lab"
        assert cli.main(args) == 0, line


def cell(kind, metadata, source):
    """A cell as JupyterLab keeps it, with the metadata and the source that the guide gives."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    name = metadata["nbgrader"]["grade_id"].lower()
    return {"cell_type": kind, "id": name, "metadata": metadata, "source": source.rstrip("\n")} | code


def hand_in(student, source, **changed):
    """Write a submission: a notebook, with functions replaced in the cells of those grade_ids."""
    content = json.loads(Path(source).read_text(encoding="utf-8"))
    for one in content["cells"]:
        name = one["metadata"]["nbgrader"]["grade_id"].replace("-", "_")
        one["source"] = changed.get(name, one["source"])
    path = Path("submissions", student, "A6.ipynb")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.slow
def test_the_guide_leads_to_an_assignment_that_is_graded(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nbgrader")
    monkeypatch.chdir(tmp_path)
    found = blocks()
    assert [kind for kind, _ in found] == [
        "console", "json", "markdown", "json", "python", "json", "python", "python", "console", "console"
    ]  # fmt: skip
    (first, about_text, text, about_solution, solution, about_tests, tests, question, hand_out, grade) = (
        content for _, content in found
    )
    run(first.splitlines()[0])
    assert cli.main(["course", "new", "A6", "--to", "my_course"]) == 1, "nothing is written over"
    master, questions = Path("my_course/A6.ipynb"), Path("my_course/a6.py")
    content = json.loads(master.read_text(encoding="utf-8"))
    content["cells"][-1:-1] = [
        cell("markdown", json.loads(about_text), text),
        cell("code", json.loads(about_solution), solution),
        cell("code", json.loads(about_tests), tests),
    ]
    master.write_text(json.dumps(content), encoding="utf-8")
    questions.write_text(questions.read_text(encoding="utf-8") + "\n\n" + question, encoding="utf-8")
    run(hand_out)
    assert sorted(path.name for path in Path("handout").iterdir()) == ["A6.ipynb", "a6.py"]

    hand_in("ada", "solved/A6_solutions.ipynb")
    hand_in("bob", "handout/A6.ipynb")
    wrong = "def entropy(weights):\n    return -(weights * weights.log2()).sum(1)"
    hand_in("eve", "solved/A6_solutions.ipynb", A6_1=wrong)
    (tmp_path / "submissions" / "eve" / "a6.py").write_text("raise SystemExit  # the grader has its own")
    run(grade)
    with open("graded/A6/grades.csv", encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert list(rows["ada"])[2:6] == ["A6.1", "A6.2", "A6.3", "A6.4"]
    points = {student: [row["A6.1"], row["A6.2"], row["A6.4"], row["bonus"]] for student, row in rows.items()}
    assert points["ada"] == ["5", "4", "3", "3"]
    assert points["bob"] == ["0", "0", "0", "0"]
    assert points["eve"][0] == "0"
    assert points["eve"][2:] == ["3", "3"]
    assert rows["ada"]["possible"] == "11"

    # A student's checks find the questions beside the notebook, and name the mistake.
    monkeypatch.chdir(tmp_path / "handout")
    said = repr(ml.course.check("A6.1", lambda w: -(w * w.log()).sum(1)))
    assert "0 log 0" in said


# --- what verify finds ------------------------------------------------------------------------------


def change(folder, name, old, new):
    """Replace a text in one of the two files of an assignment."""
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new), encoding="utf-8")


AGREE = "the notebook and its questions agree"
NAMED = "every known mistake is noticed and named"
OTHER = "the hidden tests use other inputs than the checks"
SECRET = "the students' files hold no solution and no hidden test"
WRONG = {
    "a question that is not there": ("{q}.py", '"{Q}.2": Question', '"{Q}.9": Question', AGREE, "{Q}.2"),
    "a solution cell that is not there": (
        "{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-7"',
        AGREE, "'{Q}-7'"
    ),
    "one grade_id twice": (
        "{Q}.ipynb", '"grade_id": "{Q}-2-text"', '"grade_id": "{Q}-1-text"',
        AGREE, "two cells"
    ),
    "no points": ("{Q}.ipynb", '"points": 5', '"points": 0', AGREE, "0 points"),
    "hidden tests without an end": ("{Q}.ipynb", "marks.earned", "marks", AGREE, "marks.earned"),
    "tests without functions": (
        "{Q}.ipynb", '["entropy"]', "[]",
        AGREE, "{Q}-1-tests: the metadata multipole_lab has no 'functions'"
    ),
    "no title": (
        "{Q}.ipynb", '"title": "the perplexity",', "",
        AGREE, "{Q}-2-tests: the metadata multipole_lab has no 'title'"
    ),
    "no question": (
        "{Q}.ipynb", '"question": "{Q}.3",', "",
        AGREE, "{Q}-3: the metadata multipole_lab has no 'question'"
    ),
    "no points at all": (
        "{Q}.ipynb", ', "points": 5', "",
        AGREE, "{Q}-1-tests: the metadata nbgrader has no 'points'"
    ),
    "a field that is unknown": (
        "{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-1", "secnods": 3',
        AGREE, "'secnods'; question, title"
    ),
    "an unknown group": (
        "{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-1", "forbidden": ["sotfmax"]',
        AGREE, "a list of softmax, autograd"
    ),
    "a group that is no list": (
        "{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-1", "forbidden": "softmax"',
        AGREE, "{Q}-1-tests: 'forbidden' is 'softmax'"
    ),
    "an unknown group in the questions": (
        "{q}.py", "uses=", 'forbidden=("sotfmax",), uses=',
        AGREE, "a tuple of softmax, autograd"
    ),
    "a group in the questions that is no tuple": (
        "{q}.py", "uses=", 'forbidden="softmax", uses=',
        AGREE, "forbidden is 'softmax'"
    ),
    "forbidden in the metadata alone": (
        "{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-1", "forbidden": ["softmax"]',
        AGREE, "both need the same"
    ),
    "forbidden in the questions alone": (
        "{q}.py", "uses=", 'forbidden=("softmax",), uses=',
        AGREE, "both need the same"
    ),
    "the library in the questions alone": (
        "{q}.py", "uses=", "library=True, uses=",
        AGREE, "both need the same"
    ),
    "half a second": ("{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-1", "seconds": 0.5', AGREE, "a whole number"),
    "no JSON": ("{Q}.ipynb", '"cells"', "cells", AGREE, "{Q}.ipynb: the file is not JSON"),
    "a misspelt marker": (
        "{Q}.ipynb", "### BEGIN HIDDEN TESTS", "### BEGIN HIDEN TEST",
        AGREE, "{Q}-1-tests: the line '### BEGIN HIDEN TEST'"
    ),
    "a marker too few": (
        "{Q}.ipynb", "### END HIDDEN TESTS", "",
        AGREE, "{Q}-1-tests: '### END HIDDEN TESTS' is missing"
    ),
    "no grade_id": ("{Q}.ipynb", '"grade_id": "{Q}-1-text",', "", AGREE, "has no 'grade_id'"),
    "no Question": ("{q}.py", "QUESTIONS = {", 'QUESTIONS = {}\n_ = {', AGREE, "'{Q}.1'"),
    "questions that cannot be read": (
        "{q}.py", "import torch", "import torch torch",
        AGREE, "line 9: SyntaxError"
    ),
    "an oracle that raises": ("{q}.py", "math.fsum", "math.sumf", NAMED, "line 18: AttributeError"),
    "mistakes that are alike": (
        "{q}.py", '"is the sign right?"', '"is it below zero?": lambda w: -entropy(w), "is the sign right?"',
        NAMED, "no input tells the mistakes 'is it below zero?' and 'is the sign right?' apart"
    ),
    "hidden tests that raise": (
        "{Q}.ipynb", "torch.eye(5)", "torch.eyes(5)",
        OTHER, "<hidden tests of {Q}.2>, line 4: AttributeError"
    ),
    "a mistake that is right": (
        "{q}.py", "lambda w: -entropy(w)", "lambda w: entropy(w)",
        NAMED, "is right on all"
    ),
    "an input of the check": ("{Q}.ipynb", "torch.eye(4),)", "torch.ones(2, 1),)", OTHER, "1 inputs"),
}  # fmt: skip


def flat(path):
    """Put all metadata of a cell into one line, where a field is easily replaced."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content), encoding="utf-8")


def broken(tmp_path, how):
    """An assignment with that fault, under a name of its own, and what is to be said of it."""
    name = f"B{list(WRONG).index(how)}"
    create(name, tmp_path)
    flat(tmp_path / f"{name}.ipynb")
    file, old, new, promise, said = (
        part.replace("{Q}", name).replace("{q}", name.lower()) for part in WRONG[how]
    )
    change(tmp_path, file, old, new)
    return name, promise, said


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_with_an_assignment_is_named(tmp_path, how):
    pytest.importorskip("nbgrader")
    name, promise, said = broken(tmp_path, how)
    for one, problems in verify(name, tmp_path):
        if one == promise:
            break
        assert not problems
    assert problems
    assert said in " ".join(problems)
    assert len(problems) == len(set(problems))


def test_right_answers_and_mistakes_may_use_what_is_forbidden(tmp_path):
    pytest.importorskip("nbgrader")
    create("C3", tmp_path)
    flat(tmp_path / "C3.ipynb")
    change(tmp_path, "C3.ipynb", '"cell": "C3-2"', '"cell": "C3-2", "forbidden": ["softmax"]')
    change(tmp_path, "c3.py", "uses=", 'forbidden=["softmax"], uses=')
    body = "    return torch.logsumexp(entropy(weights)[:, None], 1).exp()\n"
    change(
        tmp_path,
        "c3.py",
        "def perplexity(weights):\n",
        f"def perplexity(weights):\n{body}\n\ndef other(weights):\n",
    )
    promises = verify("C3", tmp_path)
    assert next(promises) == (AGREE, [])
    assert next(promises) == (NAMED, [])
    with pytest.raises(ValueError, match=r"there is no c4\.py in"):
        ml.course.check("C4.1", len)


def test_points_that_no_test_gives_are_explained():
    item = {"question": "A6.1", "earned": 5.0, "points": 7, "manual": False, "reason": "", "tests": []}
    assert next(_lost({"items": [item]})).endswith(
        "of 7: no test failed, so they have no more points to give"
    )


def test_both_files_are_written_and_printed_and_masters_asked_for(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nbgrader")
    monkeypatch.chdir(tmp_path)
    create("A6", tmp_path / "mine")
    for step, notebook in {"release": "A6.ipynb", "solutions": "A6_solutions.ipynb"}.items():
        assert cli.main(["course", step, "A6", "--masters", "mine", "--to", step]) == 0
        assert capsys.readouterr().out.split() == [f"{step}/{notebook}", f"{step}/a6.py"]
        assert Path(step, "a6.py").read_bytes() == Path("mine/a6.py").read_bytes()
    Path("in/ada").mkdir(parents=True)
    Path("release/A6.ipynb").rename("in/ada/A6.ipynb")
    for command in (["verify", "A6"], ["grade", "in", "--out", "out"]):
        assert cli.main(["course", *command]) == 1
        assert "--masters FOLDER" in capsys.readouterr().err


def test_a_solution_in_the_questions_stops_the_release(tmp_path, capsys):
    pytest.importorskip("nbgrader")
    create("C1", tmp_path)
    change(
        tmp_path, "c1.py", "import torch\n", "import torch\n\n# return torch.special.entr(weights).sum(1)\n"
    )
    command = ["course", "release", "C1", "--masters", str(tmp_path), "--to", str(tmp_path / "out")]
    assert cli.main(command) == 1
    assert "in c1.py: return torch.special.entr" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_questions_that_cannot_be_read_are_named_with_their_line(tmp_path):
    create("C2", tmp_path)
    change(tmp_path, "c2.py", "QUESTIONS = {", "unknown\nQUESTIONS = {")
    _, problems = next(verify("C2", tmp_path))
    assert re.search(r"c2.py, line \d+: NameError", problems[0])
    (tmp_path / "c2.py").unlink()
    with pytest.raises(ValueError, match="needs its questions beside it"):
        list(verify("C2", tmp_path))


def test_archives_hold_the_questions_that_their_grader_needs(tmp_path, monkeypatch):
    create("A6", tmp_path)
    questions = (tmp_path / "a6.py").read_text(encoding="utf-8")
    monkeypatch.setattr(archive, "wheel", lambda: ("library.whl", b""))
    with zipfile.ZipFile(gradescope("A6", tmp_path, tmp_path)) as zipped:
        assert zipped.read("masters/a6.py").decode() == questions
    with zipfile.ZipFile(otter("A6", tmp_path, tmp_path)) as zipped:
        (config,) = json.loads(zipped.read("otter_config.json"))["plugins"][0].values()
    nbgrader("A6", tmp_path / "course", tmp_path)
    for folder in ("masters", "source/A6"):
        assert (tmp_path / "course" / folder / "a6.py").read_text(encoding="utf-8") == questions
    seen = []
    monkeypatch.setattr(
        otter_plugin, "grade_one", lambda path, name, folder, unsafe: seen.append(load_master(name, folder))
    )
    monkeypatch.setattr(otter_plugin, "keep_from_others", lambda paths: False)
    pytest.importorskip("nbformat")
    otter_plugin.Grader(str(tmp_path / "a" / "ada.ipynb"), {}, config).before_execution(None)
    assert seen[0].name == "A6"


@pytest.mark.parametrize("name", ["A1", "a5", "6", "A 6", "../A6", "A6.1", "", "ä6", "A" * 30])
def test_names_that_cannot_be_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="assignment is"):
        create(name, tmp_path)
    assert not list(tmp_path.iterdir())
