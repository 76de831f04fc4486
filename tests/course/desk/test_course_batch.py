"""A folder of submissions: graded, killed, graded again, refused."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from results import result
from submissions import small_master, write

from multipole_lab import cli
from multipole_lab.course.grading import batch, notebook
from multipole_lab.course.grading.batch import grade_folder
from multipole_lab.course.grading.finding import discover
from multipole_lab.course.grading.submission import FORMAT
from multipole_lab.course.grading.times import hand_in_times


@pytest.fixture
def quick_master(monkeypatch):
    monkeypatch.setattr(batch, "load_master", lambda name, folder=None: small_master(("A1.1",), 2))


def test_a_batch_survives_and_resumes(quick_master, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder / "ada" / "A1.ipynb")
    write(folder / "bob" / "A1" / "A1.ipynb", {"A1-1": "import os\nos._exit(1)"})
    (folder / "eve").mkdir()
    (folder / "mallory.ipynb").write_text("no JSON")
    seen = []
    done = grade_folder(folder, out, progress=lambda done, total, student: seen.append((done, total)))
    paths = done.results
    assert done.failures == []
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


# --- odd submissions, all in one folder -----------------------------------------------------------


def odd_folder(folder):
    """Submissions of which one is good, and all others odd in their names or in what they hold."""
    good = write(folder / "ada" / "A1.ipynb").read_bytes()
    surrogate = {
        "cell_type": "markdown",
        "source": "half: \ud800",
        "metadata": {"nbgrader": {"grade_id": "A1-7"}},
    }

    def changed(name, change):
        new = json.loads(good)
        change(new)
        (folder / name).mkdir()
        (folder / name / "A1.ipynb").write_text(json.dumps(new))

    for name in (
        b"caf\xe9",
        b"\xff\xfe",
        b"line\nbreak",
        b"\x1b[2Jclear",
        "é".encode() * 120,
        b"-rf",
        b"=1+1",
        b"a,b;c",
    ):
        (folder / os.fsdecode(name)).mkdir()
        (folder / os.fsdecode(name) / "A1.ipynb").write_bytes(good)
    changed("half a character", lambda c: c["cells"].append(surrogate))
    changed(
        "half in code", lambda c: c["cells"].append(dict(c["cells"][0], source="x = '\ud800'", metadata={}))
    )
    changed(
        "an odd exception",
        lambda c: c["cells"].append(dict(c["cells"][0], source="raise ValueError('\ud800\x00')")),
    )
    changed("an odd id", lambda c: c["cells"][0]["metadata"]["nbgrader"].update(grade_id=[{"a": []}]))
    changed(
        "cells in cells", lambda c: c["cells"].append({"source": [[["x"]], {"y": 1}], "cell_type": ["code"]})
    )
    changed("an odd kernel", lambda c: c["metadata"].update(kernelspec={"name": {"\ud800": 1}}))
    changed("no metadata", lambda c: c.update(metadata=[1]))
    changed("NaN", lambda c: c.update(extra=float("nan"), more=10**400))
    files = {
        "empty": b"", "a list": b"[]", "lists": b"[" * 100_000, "bytes": bytes(range(256)), "half": good[:-100],
        "a mark": b"\xef\xbb\xbf" + good, "UTF-16": good.decode().encode("utf-16"),
        "no end": b'{"cells": [' + b"[]," * 3_000_000,
    }  # fmt: skip
    for name, data in files.items():
        (folder / f"{name}.ipynb").write_bytes(data)
    (folder / "a link").symlink_to("/etc")
    (folder / "a loop").symlink_to("a loop")
    (folder / "a linked file.ipynb").symlink_to(folder / "ada" / "A1.ipynb")
    os.mkfifo(folder / "a pipe.ipynb")
    (folder / "nothing").mkdir()
    (folder / "a folder" / "A1.ipynb").mkdir(parents=True)
    with open(folder / "large.ipynb", "wb") as file:
        file.truncate(1 << 40)
    (folder / "bob.zip").write_bytes(b"PK")


RIGHT_ALL_THE_SAME = {
    "ada", "caf\\xe9", "\\xff\\xfe", "line\\nbreak", "\\x1b[2Jclear", "é" * 120, "-rf", "=1+1", "a,b;c",
    "half a character", "half in code", "an odd id", "an odd kernel", "no metadata", "NaN", "a mark", "cells in cells",
}  # fmt: skip


@pytest.mark.slow
def test_no_submission_stops_the_batch_whatever_it_is_or_is_called(
    quick_master, tmp_path, monkeypatch, capsys
):
    folder, out = tmp_path / "in", tmp_path / "out"
    odd_folder(folder)
    failing = batch.grade_submission

    def grade(master, path, fork_server, limits):
        if path.parent.name == "nothing":
            raise OSError("the grader's own trouble \ud800")
        return failing(master, path, fork_server, limits)

    monkeypatch.setattr(batch, "grade_submission", grade)
    command = ["course", "grade", str(folder), "--out", str(out), "--assignment", "A1"]
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert "nothing: OSError: the grader's own trouble" in said.err
    assert "not looked at: bob.zip" in said.out
    assert "a link is a link, which is not followed" in said.out
    results = [json.loads(path.read_text()) for path in (out / "A1" / "results").iterdir()]
    assert len(results) == len(list(folder.iterdir())) - 2, "all but the archive and the one that failed"
    assert {r["student"] for r in results if r["earned"] == 5} - {"an odd exception"} == RIGHT_ALL_THE_SAME
    assert all(r["problem"] or r["earned"] or r["items"][0]["reason"] for r in results)
    assert not list(out.rglob("*.partial"))

    monkeypatch.setattr(batch, "grade_submission", failing)
    assert cli.main(command) == 0
    assert cli.main(["course", "report", str(out)]) == 0
    with open(out / "A1" / "grades.csv", encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(results) + 1
    assert rows["'=1+1"]["A1.1"] == "5"


@pytest.fixture
def canned(quick_master, monkeypatch):
    """Everybody gets the same result, and no process is started."""
    answer = result("somebody") | {"format": FORMAT}
    monkeypatch.setattr(batch, "ForkServer", lambda *args: contextlib.nullcontext(None))
    monkeypatch.setattr(batch, "rehearse", lambda *args: None)
    monkeypatch.setattr(batch, "grade_submission", lambda *args: dict(answer))


def test_assignments_students_and_folders_are_apart(canned, tmp_path, capsys):
    """A2 into the folder of A1, one student again, a student who has gone, two groups in one place."""
    one, two, out = tmp_path / "one", tmp_path / "two", tmp_path / "out"
    write(one / "ada" / "A1.ipynb")
    write(one / "bob" / "A1.ipynb")
    write(two / "eve" / "A1.ipynb")
    grade_folder(one, out)
    grade_folder(two, out)
    first = {path: path.stat().st_mtime_ns for path in (out / "A1" / "results").iterdir()}
    assert len(first) == 3

    grade_folder(one, out, "A2", masters=None)  # the same small master, under another name
    assert len(list((out / "A2" / "results").iterdir())) == 2
    assert {path: path.stat().st_mtime_ns for path in first} == first, "A1 is as it was"

    grade_folder(one, out, "A1", only=["bob"])
    again = [path.stem for path in first if path.stat().st_mtime_ns != first[path]]
    assert again == ["bob"]
    with pytest.raises(ValueError, match=r"no student 'bobb'; bob\?"):
        grade_folder(one, out, "A1", only=["bobb"])

    shutil.rmtree(one / "bob")
    grade_folder(one, out, "A1")
    assert cli.main(["course", "report", str(out), "--assignment", "A1"]) == 0
    with open(out / "A1" / "grades.csv", encoding="utf-8", newline="") as file:
        notes = {row["student"]: row["notes"] for row in csv.DictReader(file)}
    assert "withdrawn" in notes["bob"]
    assert "withdrawn" not in notes["ada"] + notes["eve"]


def test_hand_in_times_come_from_where_one_says(tmp_path):
    write(tmp_path / "in" / "ada" / "A1" / "A1.ipynb")
    (tmp_path / "in" / "ada" / "A1" / "timestamp.txt").write_text("2026-11-30 21:58:23.9482 UTC")
    write(tmp_path / "in" / "bob" / "A1.ipynb")
    (tmp_path / "times.csv").write_bytes(
        "student;time\r\nbob;2026-11-30T22:00+01:00\r\nada;\r\n".encode("utf-16")
    )
    _, found, _ = discover(tmp_path / "in", None, ["A1"])
    assert all(s.handed_in for s in hand_in_times(found, None))
    assert [str(s.handed_in) for s in hand_in_times(found, "nbgrader")] == [
        "2026-11-30 21:58:23+00:00",
        "None",
    ]
    table = hand_in_times(found, str(tmp_path / "times.csv"))
    assert [str(s.handed_in) for s in table] == ["None", "2026-11-30 21:00:00+00:00"]
    (tmp_path / "times.csv").write_text("student,time\nada,yesterday\n")
    with pytest.raises(ValueError, match="line 2: a time is 'yesterday'"):
        hand_in_times(found, str(tmp_path / "times.csv"))
    with pytest.raises(ValueError, match="columns student and time"):
        hand_in_times(found, "moodle")
