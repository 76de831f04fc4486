"""Grading one student's files by the library's own grader, for a system that brings one submission at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from multipole_lab.course.grading.batch import grade_folder
from multipole_lab.course.sandbox.walls import Limits


def keep_from_others(folders: Iterable[Path]) -> bool:
    """Close folders to all users but this one; say whether students' code would be another user without walls.

    A container of such a system has no namespaces, as a rule, but a root who starts students' code as somebody else.
    Where that holds, closed folders take the place of walls: `grade_one` may then go on without them.
    """
    for folder in folders:
        folder.chmod(0o700)
    if os.geteuid() != 0:
        return False
    try:
        subprocess.run(["true"], user=_SOMEBODY, group=_SOMEBODY, extra_groups=[], check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


_SOMEBODY = 61_000  # the user of the first worker's students (`sandbox.walls`)


def grade_one(submission: Path, assignment: str, masters: Path, unsafe: bool = False) -> dict:
    """The result of one submission, as `grade_submission` gives it.

    Parameters
    ----------
    submission : a notebook, or a folder of what the student handed in; links in it are not followed.
    assignment : such as "A1".
    masters : the folder of its master.
    unsafe : whether to go on where the kernel refuses the walls around students' code (see `keep_from_others`).

    Raises
    ------
    RuntimeError : the grader itself failed, or walls were refused. No points are to be given or taken for that.
    ValueError : no such assignment.
    """
    with tempfile.TemporaryDirectory(prefix="multipole-lab-one-") as folder:
        student = Path(folder, "in", "student")
        student.mkdir(parents=True)
        if submission.is_dir():
            _copy_notebooks(submission, student)
        else:
            shutil.copy2(submission, student / f"{assignment}.ipynb", follow_symlinks=False)
        limits = Limits(unsafe=unsafe)
        batch = grade_folder(student.parent, Path(folder, "out"), assignment, masters, 1, limits)
        if batch.failures or not batch.results:
            raise RuntimeError("not graded, because the grader itself failed:\n" + "\n".join(batch.failures))
        result = json.loads(batch.results[0].read_text(encoding="utf-8"))
    return result | {"notes": [*result["notes"], *batch.notes]}


def _copy_notebooks(source: Path, target: Path) -> None:
    """The notebooks of a folder and of the folders in it, with their times."""
    for folder, inner, names in os.walk(source):
        here = Path(folder)
        depth = len(here.relative_to(source).parts)
        inner[:] = [name for name in inner if depth < 2 and name[0] not in "._"]
        for name in names:
            path = here / name
            if path.suffix == ".ipynb" and path.is_file() and not path.is_symlink():
                to = target / path.relative_to(source)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)


def lines(item: dict) -> list[str]:
    """What a student reads about one question: its reason, then a line for each hidden test."""
    said = [f"{item['reason']}."] if item["reason"] else []
    for test in item["tests"]:
        reason = f": {test['reason']}" if test["reason"] else ""
        said.append(f"{test['earned']:g} of {test['points']:g}  {test['name']}{reason}")
    return said
