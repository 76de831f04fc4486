"""A tiny nbgrader course, graded by nbgrader's own autograde."""

import os
import sys
from pathlib import Path

import exported
import pytest

from multipole_lab.course.export.nbgrader_course import nbgrader


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course with assignment 1, released and handed in by two students, graded by nbgrader."""
    from nbgrader.apps import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import PyFileConfigLoader

    root = tmp_path_factory.mktemp("course")
    nbgrader("A1", root, exported.masters(tmp_path_factory.mktemp("m") / "masters"))
    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    config.CourseDirectory.root = str(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv(
            "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )  # for alembic
        api = NbGraderAPI(CourseDirectory(config=config), config=config)
        done = api.generate_assignment("A1")
        assert done["success"], done["log"] + done.get("error", "")
        released = (root / "release" / "A1" / "A1.ipynb").read_text(encoding="utf-8")
        exported.submission(root / "submitted" / "ada" / "A1" / "A1.ipynb", released, dropped=("A1-6-tests",))
        changed = {"A1-1": exported.FORBIDDEN, "A1-6": exported.hungry()}
        exported.submission(root / "submitted" / "bob" / "A1" / "A1.ipynb", released, changed)
        for student in ("ada", "bob"):
            done = api.autograde("A1", student)
            assert done["success"], done["log"] + done.get("error", "")
        yield root, {one["student"]: one for one in api.get_submissions("A1")}


@pytest.mark.slow
def test_nbgrader_keeps_forbidden_names_and_the_limit_of_memory(course):
    root, submissions = course
    assert submissions["ada"]["code_score"] == 5 + 6 + 4  # also where the cell of a test was deleted
    assert submissions["bob"]["code_score"] == 0
    text = (root / "autograded" / "bob" / "A1" / "A1.ipynb").read_text(encoding="utf-8")
    assert "uses 'softmax', which this question does not allow" in text
    assert "can't allocate memory" in text


@pytest.mark.slow
def test_nbgraders_maximum_leaves_the_bonus_out(course):
    _, submissions = course
    assert submissions["ada"]["max_code_score"] == 5 + 6
    assert submissions["ada"]["max_score"] == 5 + 6 + 4  # 4 for the written answer
    assert submissions["ada"]["needs_manual_grade"]


@pytest.mark.slow
def test_hidden_tests_reach_no_folder_that_students_see(course):
    root, _ = course
    for folder in ("release", "autograded"):
        for path in (root / folder).rglob("*.ipynb"):
            assert "ml.course.Random" not in path.read_text(encoding="utf-8")
