"""Grading a folder of submissions: in parallel, with a progress bar, and resumable after any interruption."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import hashlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import multipole_lab
from multipole_lab import files
from multipole_lab.course.grading import record
from multipole_lab.course.grading.bounds import shown
from multipole_lab.course.grading.finding import Submission, discover, file_name
from multipole_lab.course.grading.notebook import Master, load_master, masters_folder
from multipole_lab.course.grading.submission import FORMAT, fingerprint, grade_submission, rehearse
from multipole_lab.course.grading.times import hand_in_times
from multipole_lab.course.questions import own
from multipole_lab.course.sandbox import walls as sandbox
from multipole_lab.course.sandbox.session import ForkServer
from multipole_lab.course.sandbox.walls import Limits

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's mallopt


@dataclass(frozen=True)
class Batch:
    """What became of a folder of submissions.

    Attributes
    ----------
    out : the assignment's folder, ``graded/A1``.
    results : the results' files, in the order of the students' names.
    notes : what an instructor has to know of a student, and of what was not looked at.
    failures : whom the grader itself failed; there is no result of them, or that of before.
    """

    out: Path
    results: list[Path]
    notes: list[str]
    failures: list[str]


def grade_folder(
    submissions: Path,
    out: Path,
    assignment: str | None = None,
    masters: Path | None = None,
    workers: int = 2,
    limits: Limits | None = None,
    again: bool = False,
    progress: Callable | None = None,
    only: Sequence[str] = (),
    times: str | None = None,
) -> Batch:
    """Grade every submission in a folder; write ``out/A1/results/<student>.json`` as each is done.

    A submission whose result is there already, for the same file and the same master, is not graded twice.

    Parameters
    ----------
    submissions : holds ``<student>.ipynb``, ``<student>/A1.ipynb`` or ``<student>/A1/A1.ipynb`` (nbgrader).
    out : each assignment gets a folder of its own in it.
    assignment : "A1"; None to find it in the names of the files.
    workers : submissions graded at the same time; memory is bounded by ``workers`` times the limits.
    again : grade also what has been graded.
    progress : called with (done, all, student) after each.
    only : the students to grade, again too; the others stay as they are.
    times : where hand-in times come from, see `times.hand_in_times`.

    Raises
    ------
    ValueError : no submissions, an unknown assignment or student, no assignment to be found in the names, or a master
        whose own solutions do not get full marks here.
    NoWalls : this machine refuses what keeps submissions apart, and ``limits.unsafe`` is not set.
    """
    folder = masters or masters_folder()
    known = sorted(path.stem for path in folder.glob("*.ipynb"))
    assignment, found, strays = discover(submissions, assignment, known)
    master = load_master(assignment, folder)
    found = hand_in_times(found, times)
    notes = [f"not looked at: {name}" for name in strays]
    notes += [f"{s.student}: {note}" for s in found for note in s.notes]
    chosen = _chosen(found, only)
    stamp = hashlib.sha256((master.text + own.text_of(assignment)).encode()).hexdigest()
    home = out / assignment
    results = home / "results"
    results.mkdir(parents=True, exist_ok=True)
    record.note_submissions(home, submissions, chosen, bool(only))
    paths = {s.student: results / f"{file_name(s.student)}.json" for s in found}
    waiting = [s for s in chosen if again or only or not _done(paths[s.student], s, stamp)]
    sandbox.hide_memory()
    _give_memory_back()
    hidden = [
        folder.resolve(),
        submissions.resolve(),
        out.resolve(),
        Path(multipole_lab.__file__).parent / "course",
    ]
    failures = _work(
        master,
        waiting,
        paths,
        stamp,
        hidden,
        max(1, min(workers, len(waiting))),
        limits,
        progress,
        len(chosen),
    )
    return Batch(home, [paths[s.student] for s in found if paths[s.student].exists()], notes, failures)


def _give_memory_back() -> None:
    """Large tensors go back to the system at once: each thread would keep those of the largest question."""
    with contextlib.suppress(OSError, AttributeError):  # of glibc alone
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 20)
        mallopt(_ARENA_MAX, 1)


def _chosen(found: list[Submission], only: Sequence[str]) -> list[Submission]:
    names = [s.student for s in found]
    for name in only:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3)
            raise ValueError(
                f"--only: there is no student {name!r}" + (f"; {', '.join(close)}?" if close else "")
            )
    return [s for s in found if not only or s.student in only]


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
) -> list[str]:
    """Grade what waits, after the master's own solutions; returns a line for each whom the grader itself failed."""
    todo: queue.SimpleQueue[Submission] = queue.SimpleQueue()
    for submission in waiting:
        todo.put(submission)
    stop, lock, failures = threading.Event(), threading.Lock(), []
    done = total - len(waiting)
    threads_before = torch.get_num_threads()

    servers = [_rehearsed(master, hidden, limits)] if waiting else []

    def worker(slot: int) -> None:
        nonlocal done
        fork_server = servers.pop() if slot == 0 else None
        try:
            while not stop.is_set():
                try:
                    submission = todo.get_nowait()
                except queue.Empty:
                    return
                for attempt in (1, 2):
                    try:
                        stamps = {
                            "student": submission.student,
                            "file": fingerprint(submission.path),
                            "master": stamp,
                        }
                        fork_server = fork_server or ForkServer(slot, hidden, master.interpret)
                        result = grade_submission(master, submission.path, fork_server, limits) | stamps
                        files.write(paths[submission.student], json.dumps(result, indent=1) + "\n")
                        break
                    except Exception as error:  # the grader's own trouble: once more, with new processes
                        if fork_server is not None:
                            fork_server.__exit__()
                        fork_server = None
                        if attempt == 2:
                            failures.append(
                                f"{submission.student}: {type(error).__name__}: {shown(str(error))}"
                            )
                with lock:
                    done += 1
                    if progress:
                        with contextlib.suppress(Exception):  # a closed terminal stops no grading
                            progress(done, total, submission.student)
        finally:
            if fork_server is not None:
                fork_server.__exit__()

    threads = [threading.Thread(target=worker, args=(slot,)) for slot in range(workers if waiting else 0)]
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
    return failures


def _rehearsed(master: Master, hidden: list[Path], limits: Limits | None) -> ForkServer:
    """The first worker's fork server, when the master's own solutions have got full marks from it."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ForkServer(0, hidden, master.interpret))
        rehearse(master, server, limits)
        stack.pop_all()
    return server


def _done(path: Path, submission: Submission, stamp: str) -> bool:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        key = (result["format"], result["file"], result["master"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return key == (FORMAT, fingerprint(submission.path), stamp)
