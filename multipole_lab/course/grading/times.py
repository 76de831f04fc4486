"""When a notebook was handed in, and how late that was."""

from __future__ import annotations

import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.course.grading.bounds import shown
from multipole_lab.course.grading.reports.tables import read_table

if TYPE_CHECKING:  # which imports this module
    from multipole_lab.course.grading.finding import Submission


def hand_in_times(found: list[Submission], times: str | None) -> list[Submission]:
    """The submissions with the times at which they were handed in.

    Parameters
    ----------
    times : None for when each file was changed last, which archives and copies may not keep, and which a student's
        computer wrote; "nbgrader" for ``timestamp.txt`` beside the notebook; or a table with the columns student and
        time, as other systems give.

    Raises
    ------
    ValueError : no such table, or a time in it that is none.
    """
    if times is None:
        return found
    if times == "nbgrader":
        return [replace(s, handed_in=_collected(s.path)) for s in found]
    path = Path(times)
    if not path.is_file():
        raise ValueError(
            f"--times is {shown(times)}; it has to be 'nbgrader' or a table with columns student and time"
        )
    said = {}
    for line, row in read_table(path, ("student", "time")).rows:
        try:
            said[row["student"]] = as_time(row["time"]) if row["time"].strip() else None
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from None
    return [replace(s, handed_in=said.get(s.student)) for s in found]


def _collected(notebook: Path) -> datetime | None:
    """The time in nbgrader's ``timestamp.txt``, such as "2026-11-30 21:58:23.948203 UTC"."""
    path = notebook.with_name("timestamp.txt")
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with open(path, encoding="utf-8") as file:
            return as_time(file.read(100))
    except (OSError, ValueError):
        return None


def as_time(text: str) -> datetime:
    """A time such as "2026-11-30 23:59", in UTC: of here, where it names no zone ("2026-11-30T23:59+01:00", "... UTC").

    Raises
    ------
    ValueError : it is none.
    """
    bare = text.strip()
    try:
        zoned = bare.removesuffix("UTC").strip() + "+00:00" if bare.endswith("UTC") else bare
        return datetime.fromisoformat(zoned).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise ValueError(
            f"a time is {bare!r}; it has to be like '2026-11-30 23:59' or '2026-11-30T23:59+01:00'"
        ) from None


def changed(path: Path) -> datetime | None:
    """When a file was changed last, in UTC, to the second; None where there is no file, or no such time."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None
        return datetime.fromtimestamp(int(status.st_mtime), UTC)
    except (OSError, OverflowError, ValueError):
        return None


def lateness(handed_in: datetime | None, due: datetime | None) -> str:
    """How much too late, in words for a table; empty where it was in time or a time is missing."""
    if handed_in is None or due is None or handed_in <= due:
        return ""
    minutes = -(-int((handed_in - due).total_seconds()) // 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    return " ".join(f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (rest, "min")) if n)
