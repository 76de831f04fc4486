"""The archive for otter-grader. What needs otter itself is skipped where it is not installed, as in make install."""

import json
import subprocess
import sys
from types import SimpleNamespace

import exported
import pytest

from multipole_lab.course.export import otter_plugin
from multipole_lab.course.export.otter import otter
from multipole_lab.course.grading import notebook, release


@pytest.fixture
def course(tmp_path):
    masters = exported.masters(tmp_path / "masters")
    otter("A1", tmp_path, masters)
    (tmp_path / "released.ipynb").write_text(
        release.student_text(notebook.load_master("A1", masters)), encoding="utf-8"
    )
    return tmp_path


def test_otter_runs_nothing_of_a_submission_itself(course, monkeypatch):
    """What it gets to execute is empty: students' code meets the sandbox only."""
    asked = []

    def grade_one(path, assignment, masters, unsafe):
        asked.append((path, assignment, (masters / "A1.ipynb").read_text(encoding="utf-8")))
        return {"items": [], "problem": "", "earned": 0.0, "possible": 11, "bonus": 0.0, "notes": ["a note"]}

    monkeypatch.setattr(otter_plugin, "grade_one", grade_one)
    root = exported.autograder(course / "A1-otter.zip", course / "autograder")
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
def test_otter_run_takes_the_archive(course):
    pytest.importorskip("otter", reason="otter-grader is not installed: pip install otter-grader, elsewhere")
    released = (course / "released.ipynb").read_text(encoding="utf-8")
    changed = {"A1-1": exported.FORBIDDEN, "A1-8": exported.solution_cells()["A1-8"]}
    path = exported.submission(course / "ada" / "A1.ipynb", released, changed)
    command = [sys.executable, "-m", "otter", "run", "-a", "A1-otter.zip", "-o", ".", str(path)]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    tests = json.loads((course / "results.json").read_text())["tests"]
    assert [(t["name"].split()[0], t["score"], t["max_score"]) for t in tests] == [
        ("A1.1", 0, 5),
        ("A1.6", 6, 6),
        ("A1.8", 0, 0),  # it calls A1.1
    ]
    assert "softmax" in tests[0]["output"]
