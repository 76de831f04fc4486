"""From a master notebook to what students get, by nbgrader's own preprocessors, and the check that nothing leaks."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from pathlib import Path

from multipole_lab import extras, files
from multipole_lab.course.grading.markers import DELIMITERS, parts
from multipole_lab.course.grading.notebook import Master, load_master, masters_folder, read
from multipole_lab.course.questions.own import path_of
from multipole_lab.course.questions.question import ASSIGNMENTS

STUB = 'raise NotImplementedError("your code here")'
ANSWER = "*Your answer here.*"
_SHORT = 12  # a line of fewer characters says nothing by itself; it is counted, not searched for


class Leak(Exception):
    """A release that holds what students must not see; the message lists it."""


def release(name: str, to: Path, masters: Path | None = None) -> Path:
    """Write the student's notebook of an assignment; a second run writes the same bytes.

    Solutions become stubs that raise NotImplementedError, hidden tests and written answers vanish, graded cells are
    locked. The file is written only if `leaks` finds nothing. Beside an assignment of one's own its questions are
    written, which the checks in it need.

    Raises
    ------
    Leak : something secret would have been released.
    ValueError : no such assignment.
    FileNotFoundError : no master notebooks here.
    MissingPackage : without nbgrader; the message has the command.
    """
    require_tools()
    master = load_master(name, masters)
    text = student_text(master)
    beside = questions_beside(name, masters)
    found = leaks(master, text) + (leaks_beside(master, beside) if beside else [])
    if found:
        raise Leak(f"{name} was not released:\n" + "\n".join(f"  - {line}" for line in found))
    if beside:
        _write(to / beside.name, beside.read_text(encoding="utf-8"))
    return _write(to / f"{name}.ipynb", text)


def questions_beside(name: str, masters: Path | None) -> Path | None:
    """The file of the questions of an assignment of one's own, which students get for their checks."""
    return None if name in ASSIGNMENTS else path_of(name, masters or masters_folder())


def solutions(name: str, to: Path, masters: Path | None = None) -> Path:
    """Write the notebook with its solutions, without hidden tests: what is handed out after the deadline.

    Beside an assignment of one's own its questions are written, as in `release`.

    Raises
    ------
    FileNotFoundError, MissingPackage, ValueError : as `release`.
    """
    require_tools()
    import nbformat

    master = load_master(name, masters)
    notebook = nbformat.reads(master.text, as_version=4)
    for cell in notebook.cells:
        cell.source = "\n".join(line for line, kind in parts(cell.source) if kind != "tests")
    if beside := questions_beside(name, masters):
        _write(to / beside.name, beside.read_text(encoding="utf-8"))
    return _write(to / f"{name}_solutions.ipynb", _text(notebook))


def require_tools() -> None:
    """Refuse to begin without the packages that release notebooks."""
    extras.require("releasing notebooks", "course", "nbgrader", "nbformat")


def student_text(master: Master) -> str:
    """The released notebook, as the text of its file."""
    import nbformat

    notebook = nbformat.reads(master.text, as_version=4)
    resources = {"metadata": {"name": master.name, "path": "."}, "nbgrader": {}}
    for step in _steps():
        notebook, resources = step.preprocess(notebook, resources)
    return _text(notebook)


def _steps() -> list:
    """nbgrader's own steps of generate_assignment, less those that fill its database."""
    from nbgrader import preprocessors as steps

    return [
        steps.LockCells(),
        steps.ClearSolutions(code_stub={"python": STUB}, text_stub=ANSWER),
        steps.ClearOutput(),
        steps.ClearHiddenTests(),
        steps.ClearMarkScheme(),
        steps.ComputeChecksums(),
        steps.CheckCellMetadata(),
    ]


def leaks(master: Master, text: str) -> list[str]:
    """What of the master's solutions, hidden tests and answers is in a released file; empty where all is well.

    A line is secret as often as it stands in a secret region. In the release it may stand as often as in the
    master's public lines: so a short line such as ``return out`` is judged by its count and not by itself.
    Longer ones are also searched for in the whole file, where outputs, attachments and metadata are.
    """
    secret: Counter[str] = Counter()
    public: Counter[str] = Counter()
    for cell in read(master.text)[0]:
        for line, kind in parts(cell.source):
            (public if kind == "public" else secret)[line.strip()] += 1
    found = []
    released: Counter[str] = Counter()
    cells, _ = read(text)
    for cell in cells:
        for line in cell.source.split("\n"):
            released[line.strip()] += 1
            found += [f"a delimiter: {line.strip()}" for mark in DELIMITERS if mark.strip("# ") in line]
    for line in secret:
        if line and line not in (STUB, ANSWER) and released[line] > public[line]:
            found.append(f"a line of a solution or hidden test: {line}")
    visible = "\n".join(cell.source for cell in cells)
    rest = _without_sources(text)
    for piece in {piece for line in secret if line not in public for piece in _pieces(line)}:
        if piece in visible or piece in rest:
            found.append(f"a secret line inside another or outside the cells: {piece}")
    found += [
        f"cell {i} has outputs" for i, cell in enumerate(json.loads(text)["cells"]) if cell.get("outputs")
    ]
    return sorted(set(found))


def leaks_beside(master: Master, path: Path) -> list[str]:
    """The lines of solutions and hidden tests that stand in the file of the questions, which students can read."""
    public, secret = set(), set()
    for cell in read(master.text)[0]:
        for line, kind in parts(cell.source):
            (public if kind == "public" else secret).add(line.strip())
    text = path.read_text(encoding="utf-8")
    return [
        f"in {path.name}: {line}" for line in sorted(secret - public) if len(line) >= _SHORT and line in text
    ]


def _pieces(line: str) -> list[str]:
    """A line, and the sentences of a long one: of an answer somebody may copy a part."""
    sentences = re.split(r"(?<=[.:;]) ", line) if len(line) > 80 else []
    return [piece for piece in (line, *(s for s in sentences if len(s) > 30)) if len(piece) >= _SHORT]


def _without_sources(text: str) -> str:
    """All strings of a notebook file outside the cells' sources, unescaped."""
    content = json.loads(text)
    for cell in content["cells"]:
        cell.pop("source", None)
    return "\n".join(_strings(content))


def _strings(node: object) -> list[str]:
    if isinstance(node, dict):
        return [s for key, value in node.items() for s in (key, *_strings(value))]
    if isinstance(node, list):
        return [s for value in node for s in _strings(value)]
    return [str(node)]


def _text(notebook: object) -> str:
    import nbformat

    nbformat.validate(notebook)
    return re.sub(r"[ \t]+\n", "\n", nbformat.writes(notebook, sort_keys=True)).rstrip("\n") + "\n"


def _write(path: Path, text: str) -> Path:
    """Write the file whole or not at all, and leave it alone where it says the same already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text:
            return path
    files.write(path, text)
    return path
