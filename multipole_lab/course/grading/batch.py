"""Grading a folder of submissions: in parallel, with a progress bar, and resumable after any interruption."""

from __future__ import annotations

import hashlib
import json
import queue
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import multipole_lab
from multipole_lab import files
from multipole_lab.course.grading.notebook import Master, load_master, masters_folder
from multipole_lab.course.grading.submission import FORMAT, fingerprint, grade_submission
from multipole_lab.course.sandbox import walls as sandbox
from multipole_lab.course.sandbox.session import ForkServer
from multipole_lab.course.sandbox.walls import Limits

_ASSIGNMENT = re.compile(r"(?<![A-Za-z0-9])(A[0-9]+)(?![0-9])")


@dataclass(frozen=True)
class Submission:
    """A student's name and file, which may be missing."""

    student: str
    path: Path


def grade_folder(
    submissions: Path,
    out: Path,
    assignment: str | None = None,
    masters: Path | None = None,
    workers: int = 2,
    limits: Limits | None = None,
    again: bool = False,
    progress: Callable | None = None,
) -> list[Path]:
    """Grade every submission in a folder; write ``out/results/<student>.json`` as each is done.

    A submission whose result is there already, for the same file and the same master, is not graded twice.

    Parameters
    ----------
    submissions : holds ``<student>.ipynb``, ``<student>/A1.ipynb`` or ``<student>/A1/A1.ipynb`` (nbgrader).
    assignment : "A1"; None to find it in the names of the files.
    workers : submissions graded at the same time; memory is bounded by ``workers`` times the limits.
    again : grade also what has been graded.
    progress : called with (done, all, student) after each.

    Returns
    -------
    The results' files, in the order of the students' names.

    Raises
    ------
    ValueError : no submissions, an unknown assignment, or none to be found in the names.
    """
    found = discover(submissions, assignment)
    assignment = assignment or infer(found)
    folder = masters or masters_folder()
    master = load_master(assignment, folder)
    stamp = hashlib.sha256(master.text.encode()).hexdigest()
    results = out / "results"
    results.mkdir(parents=True, exist_ok=True)
    paths = {s.student: results / f"{_safe(s.student)}.json" for s in found}
    waiting = [s for s in found if again or not _done(paths[s.student], s, stamp)]
    sandbox.hide_memory()
    hidden = [
        folder.resolve(),
        submissions.resolve(),
        out.resolve(),
        Path(multipole_lab.__file__).parent / "course",
    ]
    _work(
        master,
        waiting,
        paths,
        stamp,
        hidden,
        max(1, min(workers, len(waiting))),
        limits,
        progress,
        len(found),
    )
    return [paths[s.student] for s in found if paths[s.student].exists()]


def _work(
    master: Master,
    waiting: list[Submission],
    paths: dict[str, Path],
    stamp: str,
    hidden: list[Path],
    workers: int,
    limits: Limits | None,
    progress: Callable | None,
    total: int,
) -> None:
    todo: queue.SimpleQueue[Submission] = queue.SimpleQueue()
    for submission in waiting:
        todo.put(submission)
    stop, lock, failures = threading.Event(), threading.Lock(), []
    done = total - len(waiting)
    threads_before = torch.get_num_threads()

    def worker(slot: int) -> None:
        nonlocal done
        fork_server = None
        try:
            while not stop.is_set():
                try:
                    submission = todo.get_nowait()
                except queue.Empty:
                    return
                for attempt in (1, 2):
                    try:
                        fork_server = fork_server or ForkServer(slot, hidden, master.interpret)
                        result = grade_submission(master, submission.path, fork_server, limits)
                        break
                    except Exception as error:  # the grader's own trouble: once more, with new processes
                        if fork_server is not None:
                            fork_server.__exit__()
                        fork_server = None
                        if attempt == 2:
                            failures.append(f"{submission.student}: {type(error).__name__}: {error}")
                            result = None
                if result is not None:
                    result |= {
                        "student": submission.student,
                        "file": fingerprint(submission.path),
                        "master": stamp,
                    }
                    text = json.dumps(result, indent=1, ensure_ascii=True) + "\n"
                    files.write(paths[submission.student], text)
                with lock:
                    done += 1
                    if progress:
                        progress(done, total, submission.student)
        finally:
            if fork_server is not None:
                fork_server.__exit__()

    threads = [threading.Thread(target=worker, args=(slot,)) for slot in range(workers)]
    torch.set_num_threads(1)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            thread.join()
        raise
    finally:
        torch.set_num_threads(threads_before)
    if failures:
        raise RuntimeError("not graded, because the grader itself failed:\n" + "\n".join(failures))


def discover(folder: Path, assignment: str | None = None) -> list[Submission]:
    """The submissions in a folder, by student; a student's folder without a notebook counts as one.

    Raises
    ------
    ValueError : no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"submissions is {folder}, which is no folder")
    found = {path.stem: Submission(path.stem, path) for path in folder.glob("*.ipynb")}
    for inner in folder.iterdir():
        if inner.is_dir() and not inner.is_symlink() and inner.name[0] not in "._":
            found[inner.name] = Submission(inner.name, _notebook_in(inner, assignment))
    if not found:
        raise ValueError(
            f"no submissions in {folder}: it should hold <student>.ipynb, <student>/A1.ipynb or <student>/A1/A1.ipynb"
        )
    return [found[name] for name in sorted(found)]


def _notebook_in(folder: Path, assignment: str | None) -> Path:
    names = [assignment] if assignment else [f"A{i}" for i in range(1, 6)]
    for name in names:
        for path in (folder / f"{name}.ipynb", folder / name / f"{name}.ipynb"):
            if path.exists() or path.is_symlink():
                return path
    others = sorted(folder.glob("*.ipynb")) or sorted(folder.glob("*/*.ipynb"))
    return others[0] if len(others) == 1 else folder / f"{assignment or 'A?'}.ipynb"


def infer(found: list[Submission]) -> str:
    """The assignment that the files' names speak of.

    Raises
    ------
    ValueError : none or several.
    """
    named = {
        name for s in found for name in _ASSIGNMENT.findall("/".join(s.path.parts[-3:]).replace("_", "/"))
    }
    if len(named) != 1:
        said = f"the names speak of {', '.join(sorted(named))}" if named else "no file's name says which"
        raise ValueError(f"which assignment is it? {said}; say it with --assignment A1")
    return named.pop()


def _done(path: Path, submission: Submission, stamp: str) -> bool:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        key = (result["format"], result["file"], result["master"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return key == (FORMAT, fingerprint(submission.path), stamp)


def _safe(student: str) -> str:
    """A file name for a student's; two students never share one."""
    plain = re.sub(r"[^\w.@+ -]", "_", student)[:80]
    return plain if plain == student else f"{plain}-{hashlib.sha256(student.encode()).hexdigest()[:8]}"
