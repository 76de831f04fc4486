"""An assignment of one's own: the guide, followed to the letter, leads to one that works; what is wrong is named."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

import multipole_lab as ml
from multipole_lab import cli
from multipole_lab.course.own.create import create
from multipole_lab.course.own.verify import verify

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
    "a solution cell that is not there": ("{Q}.ipynb", '"cell": "{Q}-1"', '"cell": "{Q}-7"', AGREE, "'{Q}-7'"),
    "one grade_id twice": ("{Q}.ipynb", '"grade_id": "{Q}-2-text"', '"grade_id": "{Q}-1-text"', AGREE, "two cells"),
    "no points": ("{Q}.ipynb", '"points": 5', '"points": 0', AGREE, "0 points"),
    "hidden tests without an end": ("{Q}.ipynb", "marks.earned", "marks", AGREE, "marks.earned"),
    "a mistake that is right": ("{q}.py", "lambda w: -entropy(w)", "lambda w: entropy(w)", NAMED, "is right on all"),
    "an input of the check": ("{Q}.ipynb", "torch.eye(4),)", "torch.ones(2, 1),)", OTHER, "1 inputs"),
}  # fmt: skip


def broken(tmp_path, how):
    """An assignment with that fault, under a name of its own, and what is to be said of it."""
    name = f"B{list(WRONG).index(how)}"
    create(name, tmp_path)
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


@pytest.mark.parametrize("name", ["A1", "a5", "6", "A 6", "../A6", "A6.1", "", "ä6", "A" * 30])
def test_names_that_cannot_be_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="assignment is"):
        create(name, tmp_path)
    assert not list(tmp_path.iterdir())
