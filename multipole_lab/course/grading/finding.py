"""Which notebook is whose: the submissions in a folder, with everything that was found beside them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from multipole_lab.course.grading.bounds import shown
from multipole_lab.course.grading.times import changed

RULE = "the newest is graded; of equally new ones that with the higher number, as in A1 (2).ipynb"
_DEEPEST, _MOST = 3, 2000  # folders inside a student's, and names looked at there


@dataclass(frozen=True)
class Submission:
    """A student's name and file, which may be missing.

    Attributes
    ----------
    student : the name as it is shown; the folder's may hold what no page can show.
    path : the notebook that is graded.
    handed_in : when, in UTC; None where no file says it.
    notes : what the instructor has to know: other candidates, links, a folder of other assignments.
    """

    student: str
    path: Path
    handed_in: datetime | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Found:
    """All there is of one student: notebooks, relative to the folder of submissions, and what else is to be said."""

    student: str
    own: Path
    notebooks: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def discover(
    folder: Path, assignment: str | None, known: list[str]
) -> tuple[str, list[Submission], list[str]]:
    """The submissions in a folder, by student; a student's folder without a notebook counts as one.

    Parameters
    ----------
    folder : holds ``<student>.ipynb``, ``<student>/A1.ipynb`` or ``<student>/A1/A1.ipynb``; other places and names in
        a student's folder are found, too.
    assignment : "A1"; None to find it in the files' names.
    known : the assignments that there are.

    Returns
    -------
    The assignment, the submissions in the order of the students' names, and the names of what was not looked at.

    Raises
    ------
    ValueError : no such folder, nothing in it, or no single assignment in the names.
    """
    if not folder.is_dir():
        raise ValueError(f"submissions is {shown(str(folder))}, which is no folder")
    found, strays = _scan(folder)
    if not found:
        beside = f" (there are {', '.join(strays[:5])})" if strays else ""
        raise ValueError(
            f"no submissions in {shown(str(folder))}{beside}: it should hold <student>.ipynb, <student>/A1.ipynb or "
            "<student>/A1/A1.ipynb"
        )
    assignment = assignment or _infer(folder, found, known)
    chosen = []
    for one in found:
        if one.notebooks and all(
            len(p.parts) == 1 and _is_other(p, assignment, known) for p in one.notebooks
        ):
            strays.append(f"{_listed(one.notebooks)} (of another assignment)")
        else:
            chosen.append(_choose(folder, one, assignment, known))
    return assignment, sorted(chosen, key=lambda s: s.student), strays


def assignments_in(name: str, known: list[str]) -> set[str]:
    """The assignments that a file's name speaks of: ``ada_A1``, ``A1 (2)``."""
    words = {name[m.start() : m.end()].lower() for m in re.finditer(r"[A-Za-z0-9]+", name)}
    return {one for one in known if one.lower() in words}


def _scan(folder: Path) -> tuple[list[Found], list[str]]:
    by_name: dict[str, Found] = {}
    strays = []
    for path in sorted(folder.iterdir(), key=lambda p: os.fsencode(p.name)):
        is_notebook = path.suffix.lower() == ".ipynb" and not path.is_dir()
        if path.name[0] in "._":
            strays += [readable(path.name)] if is_notebook else []
        elif is_notebook:
            _of(by_name, path.stem, path).notebooks.append(Path(path.name))
        elif path.is_symlink():
            _of(by_name, path.name, path).notes.append(
                f"{readable(path.name)} is a link, which is not followed"
            )
        elif path.is_dir():
            one = _of(by_name, path.name, path)
            try:
                one.notebooks += [Path(path.name) / inner for inner in _notebooks_in(path)]
            except OSError as error:
                one.notes.append(f"the folder {readable(path.name)} cannot be read ({error.strerror})")
        else:
            strays.append(readable(path.name))
    return list(by_name.values()), strays


def _of(by_name: dict[str, Found], raw: str, path: Path) -> Found:
    """The student of that name; names that differ stay apart, also where they are shown alike."""
    if raw not in by_name:
        name, taken = readable(raw), {one.student for one in by_name.values()}
        number = 2
        while name in taken:
            name, number = f"{readable(raw)} [{number}]", number + 1
        by_name[raw] = Found(name, path)
    return by_name[raw]


def readable(raw: str) -> str:
    """A file's name as text: what is not UTF-8, and what no page shows, is spelled out."""
    text = os.fsencode(raw).decode("utf-8", "backslashreplace")
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def _notebooks_in(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Notebooks in a student's folder, relative to it; neither through links nor into hidden folders."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= _MOST or entry.name[0] in "._":
                continue
            if entry.is_dir(follow_symlinks=False):
                inner = _notebooks_in(folder / entry.name, depth + 1) if depth < _DEEPEST - 1 else ()
                yield from (Path(entry.name) / path for path in inner)
            elif entry.name.lower().endswith(".ipynb"):
                yield Path(entry.name)


def _is_other(path: Path, assignment: str, known: list[str]) -> bool:
    named = assignments_in(path.stem, known)
    return bool(named) and assignment not in named


def _infer(folder: Path, found: list[Found], known: list[str]) -> str:
    named = {a for one in found for path in one.notebooks for a in _named_by(path, known)}
    named = named or assignments_in(folder.resolve().name, known)
    if len(named) != 1:
        said = f"the names speak of {', '.join(sorted(named))}" if named else "no file's name says which"
        raise ValueError(
            f"which assignment is it? {said}; say it with --assignment {known[0] if known else 'A1'}, and for one of "
            "your own use --masters FOLDER"
        )
    return named.pop()


def _named_by(path: Path, known: list[str]) -> set[str]:
    """By the file's own name; where that says nothing, by the folder it lies in, and so on outwards."""
    names = [path.stem, *reversed(path.parts[:-1])]
    return next((named for name in names if (named := assignments_in(name, known))), set())


def _choose(folder: Path, one: Found, assignment: str, known: list[str]) -> Submission:
    """The newest notebook that names the assignment; where none does, the newest that names no other."""
    at_top = [p for p in one.notebooks if len(p.parts) == 1 and not _is_other(p, assignment, known)]
    inside = [path for path in one.notebooks if len(path.parts) > 1]
    naming = [path for path in inside if assignment in _named_by(path, known)]
    silent = [path for path in inside if not _named_by(path, known)]
    candidates = at_top + naming or silent
    notes = list(one.notes)
    if not candidates:
        if inside:
            notes.append(f"no notebook of {assignment}; there are {_listed(inside)}")
        missing = one.own if one.own.is_symlink() else folder / one.own.name / f"{assignment}.ipynb"
        return Submission(one.student, missing, None, tuple(notes))
    ranked = sorted(candidates, key=lambda path: _rank(folder / path), reverse=True)
    if len(ranked) > 1:
        notes.append(
            f"{len(ranked)} notebooks, {_listed(ranked)}: {readable(str(ranked[0]))} is graded ({RULE})"
        )
    elif ranked[0] in silent:
        notes.append(f"{readable(str(ranked[0]))} is graded; its name does not say {assignment}")
    return Submission(one.student, folder / ranked[0], changed(folder / ranked[0]), tuple(notes))


def _listed(paths: list[Path]) -> str:
    names = [readable(str(path)) for path in paths[:8]]
    return ", ".join(names) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")


def _rank(path: Path) -> tuple:
    time = changed(path)
    number = re.search(r"\((\d{1,9})\)$", path.stem.strip())
    at = time.timestamp() if time else -float("inf")
    return (time is not None, at, int(number[1]) if number else 0, -len(path.parts), os.fsencode(path.name))


def file_name(student: str) -> str:
    """A file name for a student's, of at most a hundred bytes; two students never share one."""
    plain = re.sub(r"[^\w.@+ -]", "_", student).lstrip(".").encode()[:100].decode("utf-8", "ignore")
    return plain if plain == student else f"{plain}-{hashlib.sha256(student.encode()).hexdigest()[:8]}"
