"""A folder of submissions: graded, killed, graded again, refused."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from submissions import small_master, write

from multipole_lab.course.grading import notebook
from multipole_lab.course.grading.batch import grade_folder


@pytest.fixture
def quick_master(monkeypatch):
    from multipole_lab.course.grading import batch

    monkeypatch.setattr(batch, "load_master", lambda name, folder=None: small_master(("A1.1",), 2))


def test_a_batch_survives_and_resumes(quick_master, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder / "ada" / "A1.ipynb")
    write(folder / "bob" / "A1" / "A1.ipynb", {"A1-1": "import os\nos._exit(1)"})
    (folder / "eve").mkdir()
    (folder / "mallory.ipynb").write_text("no JSON")
    seen = []
    batch = grade_folder(folder, out, progress=lambda done, total, student: seen.append((done, total)))
    paths = batch.results
    assert batch.failures == []
    results = [json.loads(path.read_text()) for path in paths]
    assert [(r["student"], r["earned"]) for r in results] == [
        ("ada", 5),
        ("bob", 0),
        ("eve", 0),
        ("mallory", 0),
    ]
    assert sorted(seen) == [(1, 4), (2, 4), (3, 4), (4, 4)]

    stamps = [path.stat().st_mtime_ns for path in paths]
    write(folder / "bob" / "A1" / "A1.ipynb")  # handed in again
    grade_folder(folder, out)
    changed = [a != b.stat().st_mtime_ns for a, b in zip(stamps, paths, strict=True)]
    assert changed == [False, True, False, False]
    assert json.loads(paths[1].read_text())["earned"] == 5


def folders():
    """The temporary folders of students' processes."""
    return Path(tempfile.gettempdir()).glob("multipole-lab-student-*")


def test_a_killed_batch_leaves_whole_results_and_no_processes(tmp_path):
    folder, out, masters = tmp_path / "in", tmp_path / "out", tmp_path / "masters"
    for i in range(40):
        write(folder / f"s{i:02d}" / "A1.ipynb")
    content = json.loads((notebook.masters_folder() / "A1.ipynb").read_text())
    kept = ("a1-setup", "A1-1", "A1-1-tests")
    content["cells"] = [c for c in content["cells"] if c["metadata"]["nbgrader"]["grade_id"] in kept]
    masters.mkdir()
    (masters / "A1.ipynb").write_text(json.dumps(content))
    command = [sys.executable, "-m", "multipole_lab.cli", "course", "grade", str(folder), "--out", str(out)]
    command += ["--masters", str(masters)]
    before = set(folders())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(out.glob("A1/results/s*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in out.glob("A1/results/s*.json")}
    assert 0 < len(first) < 40
    assert all(json.loads(path.read_text())["earned"] == 5 for path in first)
    _, alive = psutil.wait_procs(children, 20)
    assert not alive
    left, deadline = set(folders()) - before, time.monotonic() + 20  # those of other tests go away, too
    while any(path.exists() for path in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [path for path in left if path.exists()], "a temporary folder was left behind"
    assert len(grade_folder(folder, out, masters=masters).results) == 40
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items()), "graded twice"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "which is no folder"),
        (lambda f: f.mkdir(), "no submissions"),
        (lambda f: write(f / "ada.ipynb"), "which assignment"),
        (lambda f: (write(f / "ada" / "A1.ipynb"), write(f / "bob" / "A2.ipynb")), "A1, A2"),
    ],
)
def test_a_folder_that_cannot_be_graded_says_why(tmp_path, make, message):
    make(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        grade_folder(tmp_path / "in", tmp_path / "out")
