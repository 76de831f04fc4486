"""The archives, run as Gradescope and otter-grader run them.

What needs otter-grader itself is skipped where it is not installed: `make install` does not bring it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import exported
import pytest

from multipole_lab.course.export import gradescope_run, otter_plugin
from multipole_lab.course.export.gradescope import gradescope
from multipole_lab.course.export.one import grade_one
from multipole_lab.course.export.otter import otter
from multipole_lab.course.grading import notebook, release

VISIBILITIES = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
# https://gradescope-autograders.readthedocs.io/en/latest/specs/
TEST = {
    "score": float, "max_score": float, "status": {"passed", "failed"}, "name": str, "name_format": FORMATS,
    "number": str, "output": str, "output_format": FORMATS, "tags": list, "visibility": VISIBILITIES,
    "extra_data": dict,
}  # fmt: skip
RESULTS = {
    "score": float, "execution_time": float, "output": str, "output_format": FORMATS, "test_output_format": FORMATS,
    "test_name_format": FORMATS, "visibility": VISIBILITIES, "stdout_visibility": VISIBILITIES, "extra_data": dict,
    "tests": list, "leaderboard": list,
}  # fmt: skip


def check_format(content, schema=RESULTS):
    """Only documented keys, with documented values."""
    for key, value in content.items():
        allowed = schema[key]
        assert value in allowed if isinstance(allowed, set) else isinstance(value, allowed | int)
    for test in content.get("tests", []):
        check_format(test, TEST)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A folder with small masters, the archives of them, and the notebook that students get."""
    folder = tmp_path_factory.mktemp("course")
    masters = exported.masters(folder / "masters")
    gradescope("A1", folder, masters)
    otter("A1", folder, masters)
    released = release.student_text(notebook.load_master("A1", masters))
    (folder / "released.ipynb").write_text(released, encoding="utf-8")
    return folder


def run(root, **how):
    """Run the script as Gradescope does; returns (exit status, what instructors read, results or None)."""
    done = subprocess.run(
        [root / "run_autograder"], cwd=root, capture_output=True, text=True, timeout=300, **how
    )
    results = root / "results" / "results.json"
    return (
        done.returncode,
        done.stdout + done.stderr,
        json.loads(results.read_text()) if results.exists() else None,
    )


@pytest.mark.slow
def test_a_submission_gets_its_points_in_the_documented_format(course, tmp_path):
    root = exported.autograder(course / "A1-gradescope.zip", tmp_path / "autograder")
    released = (course / "released.ipynb").read_text(encoding="utf-8")
    changed = {"A1-6": exported.hungry()}
    exported.submission(root / "submission" / "A1.ipynb", released, changed)
    status, said, results = run(root)
    assert status == 0, said
    check_format(results)
    tests = {test["number"]: test for test in results["tests"]}
    assert {n: (t.get("score"), t.get("max_score"), t["status"]) for n, t in tests.items()} == {
        "A1.1": (5, 5, "passed"),
        "A1.6": (0, 6, "failed"),  # the limit of memory
        "A1.7": (None, None, "passed"),  # written
        "A1.8": (4, None, "passed"),  # the bonus
    }
    assert results["score"] == 9
    assert tests["A1.7"]["output"] == "It is associative."
    assert "memory" in tests["A1.6"]["output"]
    assert {test["visibility"] for test in tests.values()} == {"after_due_date"}
    assert {oct((root / name).stat().st_mode)[-3:] for name in ("source", "submission", "results")} == {"700"}


def test_a_file_that_is_no_notebook_gets_a_reason_as_plain_text(course, tmp_path):
    (tmp_path / "A1.ipynb").write_text("<b>no</b>")
    result = grade_one(tmp_path, "A1", course / "masters")
    results = gradescope_run.results(result, "visible")
    check_format(results)
    assert results["score"] == 0
    assert results["output"].startswith("The file could not be graded: the file is not JSON")
    assert results["output_format"] == results["test_output_format"] == "text"


def test_a_failing_grader_leaves_no_points(course, tmp_path, monkeypatch):
    root = exported.autograder(course / "A1-gradescope.zip", tmp_path / "autograder")
    old = root / "results" / "results.json"
    old.write_text('{"score": 15}')

    def fail(*args, **kwargs):
        raise RuntimeError("the grader itself failed")

    monkeypatch.setattr(gradescope_run, "grade_one", fail)
    with pytest.raises(RuntimeError):
        gradescope_run.main([str(root)])
    assert not old.exists()


SPY = """
import os
def weights(q, k, scale):
    seen = []
    for name in ("source", "submission", "results"):
        for ask in (os.listdir, lambda folder: open(folder + "/results.json", "w")):
            try:
                ask({root!r} + "/" + name)
                seen.append("OPEN " + name)
            except OSError as error:
                seen.append(type(error).__name__)
    raise ValueError(" ".join(seen) + " " + str(os.getuid()))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be the root of a container without namespaces")
def test_without_namespaces_a_submission_cannot_read_what_is_graded_by(course):
    root = Path(tempfile.mkdtemp(prefix="autograder-"))
    root.chmod(0o755)  # as /autograder is; folders of pytest are closed to other users themselves
    try:
        exported.autograder(course / "A1-gradescope.zip", root)
        released = (course / "released.ipynb").read_text(encoding="utf-8")
        exported.submission(root / "submission" / "A1.ipynb", released, {"A1-1": SPY.format(root=str(root))})
        status, said, results = run(root, preexec_fn=exported.without_namespaces)
        assert status == 0, said
        tests = {test["number"]: test for test in results["tests"]}
        assert "PermissionError " * 6 + "61000" in tests["A1.1"]["output"]
        assert tests["A1.6"]["score"] == 6
        assert "namespaces" not in json.dumps(results)  # which is the instructor's concern
    finally:
        shutil.rmtree(root)


def test_otter_runs_nothing_of_a_submission_itself(course, tmp_path, monkeypatch):
    """What it gets to execute is empty: students' code meets the sandbox only."""
    asked = []

    def grade_one(path, assignment, masters, unsafe):
        asked.append((path, assignment, (masters / "A1.ipynb").read_text(encoding="utf-8")))
        return {"items": [], "problem": "", "earned": 0.0, "possible": 11, "bonus": 0.0, "notes": ["a note"]}

    monkeypatch.setattr(otter_plugin, "grade_one", grade_one)
    root = exported.autograder(course / "A1-otter.zip", tmp_path / "autograder")
    config = json.loads((root / "source" / "otter_config.json").read_text(encoding="utf-8"))
    [(name, own)] = config["plugins"][0].items()
    assert name == f"{otter_plugin.__name__}.{otter_plugin.Grader.__name__}"
    path = exported.submission(root / "submission" / "A1.ipynb", (course / "released.ipynb").read_text())
    plugin = otter_plugin.Grader(str(path), {}, own)
    assert plugin.before_execution("what otter would run").cells == []
    assert asked == [(path, "A1", (course / "masters" / "A1.ipynb").read_text(encoding="utf-8"))]
    results = SimpleNamespace(results={"q1": "whatever otter has found"})
    plugin.after_grading(results)
    assert results.results == {}
    assert plugin.generate_report() == "0 of 11\na note"


@pytest.mark.slow
def test_otter_run_takes_the_archive(course, tmp_path):
    pytest.importorskip("otter", reason="otter-grader is not installed: pip install otter-grader, elsewhere")
    released = (course / "released.ipynb").read_text(encoding="utf-8")
    changed = {"A1-1": exported.FORBIDDEN, "A1-8": exported.solution_cells()["A1-8"]}
    path = exported.submission(tmp_path / "ada" / "A1.ipynb", released, changed)
    command = [sys.executable, "-m", "otter", "run", "-a", str(course / "A1-otter.zip"), "-o", ".", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = json.loads((tmp_path / "results.json").read_text())["tests"]
    assert [(t["name"].split()[0], t["score"], t["max_score"]) for t in tests] == [
        ("A1.1", 0, 5),
        ("A1.6", 6, 6),
        ("A1.8", 0, 0),  # it calls A1.1
    ]
    assert "softmax" in tests[0]["output"]
