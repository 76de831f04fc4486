"""Assignments of one's own: their questions stand in a file beside their notebook, a6.py beside A6.ipynb.

For students that is the folder in which the notebook runs; for the grader it is the folder of the masters, and never
one of a submission.
"""

from __future__ import annotations

import linecache
import re
import types
from pathlib import Path

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,19}")

_folders: dict[str, Path] = {}
_loaded: dict[Path, tuple[int, dict]] = {}


def path_of(assignment: str, folder: Path) -> Path:
    """The file of an assignment's questions: in small letters, so that it can be imported."""
    return folder / f"{assignment.lower()}.py"


def use(assignment: str, folder: Path) -> None:
    """From now on the questions of an assignment are those of this folder.

    Raises
    ------
    ValueError : it has none.
    """
    if not NAME.fullmatch(assignment) or not path_of(assignment, folder).is_file():
        raise ValueError(
            f"{assignment}.ipynb needs its questions beside it, in {path_of(assignment, folder)}: "
            f"`multipole-lab course new {assignment}` writes both"
        )
    _folders[assignment] = folder.resolve()


def text_of(assignment: str) -> str:
    """The text of the questions in use, or an empty string: of the library's own there is no such file."""
    folder = _folders.get(assignment)
    return path_of(assignment, folder).read_text(encoding="utf-8") if folder else ""


def questions_of(assignment: str) -> dict | None:
    """``QUESTIONS`` of an assignment's file, read again when it has changed; None where there is no such file.

    Raises
    ------
    ValueError : the file raises something, or has no QUESTIONS; the message has the line.
    """
    if not NAME.fullmatch(assignment):
        return None
    path = path_of(assignment, _folders.get(assignment, Path.cwd()))
    if not path.is_file():
        return None
    changed = path.stat().st_mtime_ns
    if path not in _loaded or _loaded[path][0] != changed:
        _loaded[path] = (changed, _load(path))
    return _loaded[path][1]


def _load(path: Path) -> dict:
    module = types.ModuleType(f"multipole_lab_questions_{path.stem}")
    module.__file__ = str(path)
    text = path.read_text(encoding="utf-8")
    linecache.cache[str(path)] = (len(text), None, text.splitlines(True), str(path))
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line(error, path)
        raise ValueError(f"{path}, line {line}: {type(error).__name__}: {error}") from error
    questions = getattr(module, "QUESTIONS", None)
    if not isinstance(questions, dict):
        raise ValueError(f"{path} has no QUESTIONS, a dictionary of a Question for each name")
    return questions


def _line(error: Exception, path: Path) -> int | None:
    """The last line of the file that an exception passed."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
