"""What is known of an assignment beside its results: who handed in what and when, and by when it was due.

Everything of an assignment lies in a folder of its own below ``--out``: ``graded/A1/submissions.json``, which `grade`
writes, and ``graded/A1/deadline.json``, which `report --deadline` writes; both can be read and changed by a person.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from multipole_lab import files
from multipole_lab.course.grading.finding import Submission, readable
from multipole_lab.course.grading.times import as_time

FORMAT = "multipole_lab submissions 1"


def note_submissions(out: Path, folder: Path, found: Iterable[Submission], only: bool) -> None:
    """Write down what was found in a folder; ``only`` keeps what is known of its other students.

    Other folders that were graded to the same place stay: groups may be graded one by one.
    """
    record = _read(out / "submissions.json")
    folders = record.get("folders") if isinstance(record.get("folders"), dict) else {}
    name = readable(str(folder.resolve()))
    here = dict(folders.get(name, {})) if only else {}
    for submission in found:
        here[submission.student] = {
            "file": readable(str(submission.path)),
            "handed_in": submission.handed_in.isoformat() if submission.handed_in else None,
            "notes": list(submission.notes),
        }
    _write(out / "submissions.json", {"format": FORMAT, "folders": folders | {name: here}})


def students(out: Path) -> dict[str, dict]:
    """{student: file, handed_in (a datetime in UTC or None), notes}, of all folders.

    A student who stands in two folders gets a note: the result is of the one that was graded last.
    """
    known: dict[str, dict] = {}
    for folder, entries in _read(out / "submissions.json").get("folders", {}).items():
        for student, entry in entries.items():
            notes = list(entry["notes"])
            if student in known:
                notes.append(f"in two folders of submissions, also in {folder}: the one graded last counts")
            known[student] = entry | {"notes": notes, "handed_in": _time(entry["handed_in"])}
    return known


def set_deadline(
    out: Path, deadline: str | None, extensions: Iterable[tuple[str, str]], names: Iterable[str]
) -> None:
    """Remember by when an assignment is due, and for whom another time holds.

    Raises
    ------
    ValueError : no time, or an extension for nobody who is known; the message has names like it.
    """
    record, names = _read(out / "deadline.json"), list(names)
    if deadline is not None:
        record["deadline"] = as_time(deadline).isoformat()
    for student, until in extensions:
        if student not in names:
            close = difflib.get_close_matches(student, names, n=3)
            raise ValueError(
                f"--extension: there is no student {student!r}" + (f"; {', '.join(close)}?" if close else "")
            )
        record.setdefault("extensions", {})[student] = as_time(until).isoformat()
    _write(out / "deadline.json", record)


def deadlines(out: Path) -> tuple[datetime | None, dict[str, datetime]]:
    """By when it was due, and {student: another time}."""
    record = _read(out / "deadline.json")
    return _time(record.get("deadline")), {s: as_time(t) for s, t in record.get("extensions", {}).items()}


def _time(text: str | None) -> datetime | None:
    return as_time(text) if text else None


def _read(path: Path) -> dict:
    """A file of this module; an empty one where it is not there.

    Raises
    ------
    ValueError : somebody changed it, and it is no JSON object now.
    """
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON any more: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no JSON object")
    return record


def _write(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
