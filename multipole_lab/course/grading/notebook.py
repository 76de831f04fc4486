"""Reading notebooks: the masters, which are trusted, and submissions, which may be anything."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import multipole_lab
from multipole_lab.course.grading import bounds
from multipole_lab.course.grading.fields import wrong_fields
from multipole_lab.course.grading.markers import hidden_tests, wrong_markers
from multipole_lab.course.questions import own
from multipole_lab.course.questions.question import ASSIGNMENTS

ONE_AT_A_TIME = threading.Lock()  # what is being read may take a hundred megabytes


class Unreadable(Exception):
    """A submission that is no notebook. The message is for the student."""


class BrokenMaster(ValueError):
    """A master that cannot be read; ``problems`` has a line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Cell:
    """One cell: ``kind`` is code or markdown; ``grade`` is nbgrader's metadata, ``extra`` this course's."""

    kind: str
    source: str
    grade: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """nbgrader's grade_id, or an empty string."""
        return str(self.grade.get("grade_id", ""))


def read(text: str) -> tuple[list[Cell], dict]:
    """The cells and the metadata of a notebook, format 4.

    Raises
    ------
    Unreadable : the text is not JSON, or no notebook.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the file is not JSON ({str(error)[:80]})") from None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise Unreadable("the file is JSON, but no notebook (it has no list of cells)")
    cells = []
    for cell in content["cells"]:
        if not isinstance(cell, dict):
            continue
        source = cell.get("source", "")
        if isinstance(source, list):
            source = "".join(part for part in source if isinstance(part, str))
        metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
        grade, extra = (metadata.get(key) for key in ("nbgrader", "multipole_lab"))
        cells.append(
            Cell(
                str(cell.get("cell_type", "")),
                source if isinstance(source, str) else "",
                grade if isinstance(grade, dict) else {},
                extra if isinstance(extra, dict) else {},
            )
        )
    metadata = content.get("metadata")
    return cells, metadata if isinstance(metadata, dict) else {}


def read_submission(path: Path) -> tuple[list[Cell], dict]:
    """The same for a file of a student, which is neither followed through links nor read when it is huge.

    Raises
    ------
    Unreadable : as `read`, and for what goes beyond `bounds`. A code cell that does is replaced by one that says so.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise Unreadable("there is no notebook file")
        size = path.stat().st_size
        if size > bounds.LARGEST:
            raise Unreadable(f"the file has {size / 1e6:.0f} MB; at most {bounds.LARGEST >> 20} MB are read")
        with ONE_AT_A_TIME:
            data = path.read_bytes()
            if reason := bounds.too_large(data):
                raise Unreadable(reason)
            cells, metadata = read(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("the file is not text") from None
    except OSError as error:
        raise Unreadable(f"the file cannot be read ({error.strerror})") from None
    code = sum(len(cell.source) for cell in cells if cell.kind == "code")
    if code > bounds.CODE:
        raise Unreadable(f"its code has {code:,} characters; at most {bounds.CODE:,} are run")
    return [_bounded(cell) for cell in cells], metadata


def _bounded(cell: Cell) -> Cell:
    if cell.kind != "code" or len(cell.source) <= bounds.CELL:
        return cell
    said = f"this cell has {len(cell.source):,} characters; at most {bounds.CELL:,} are run"
    return replace(cell, source=f"raise ValueError({said!r})")


def language(metadata: dict) -> str:
    """The language a notebook says it is in, by any of the places where tools write it."""
    kernel = metadata.get("kernelspec") if isinstance(metadata.get("kernelspec"), dict) else {}
    info = metadata.get("language_info") if isinstance(metadata.get("language_info"), dict) else {}
    return str(info.get("name") or kernel.get("language") or "python").lower()


# --- masters --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One graded cell of a master: a question with tests, or a written one.

    Attributes
    ----------
    name : "A1.2".
    title : in a few words.
    points : the most it gives.
    functions : the names that the tests call; none for a written question.
    tests : the hidden tests' source.
    library, forbidden : whether multipole_lab may be called, what of torch may not (see `forbidden`).
    seconds, memory : the time for all tests; megabytes, where fewer than usual.
    bonus : whether its points come on top.
    cell : the grade_id of the cell for the solution.
    """

    name: str
    title: str
    points: float
    functions: tuple[str, ...]
    tests: str
    library: bool
    forbidden: tuple[str, ...]
    seconds: int
    memory: int | None
    bonus: bool
    cell: str

    @property
    def manual(self) -> bool:
        """Whether a person has to read it."""
        return not self.functions


@dataclass(frozen=True)
class Master:
    """A master notebook, read for grading."""

    name: str
    text: str
    items: tuple[Item, ...]
    setup: tuple[tuple[str, str], ...]
    interpret: bool

    @property
    def own_cells(self) -> set[str]:
        """grade_ids of cells that are not the student's: the grader has its own copy of them."""
        cells, _ = read(self.text)
        return {cell.name for cell in cells if cell.name and not cell.grade.get("solution")}


def masters_folder() -> Path:
    """The masters of this checkout, or of the one that the working directory is the root of; they are not installed.

    Raises
    ------
    FileNotFoundError : there are none; the message says what to do.
    """
    for root in (Path(multipole_lab.__file__).resolve().parents[1], Path.cwd()):
        folder = root / "notebooks" / "assignments"
        if any(folder.glob("A*.ipynb")):
            break
    else:
        raise FileNotFoundError(
            "the master notebooks, which hold the solutions, are not installed with the library: they are in the "
            "repository, in notebooks/assignments. Run this in a clone of it, or name their folder: --masters DIR"
        )
    return folder


def load_master(name: str, folder: Path | None = None) -> Master:
    """Read the master of an assignment such as "A1".

    Raises
    ------
    ValueError : no such master, or one of your own without its questions.
    BrokenMaster : it is no notebook, or the metadata or markers of a cell are not what they may be.
    """
    folder = folder or masters_folder()
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.ipynb")))
        raise ValueError(
            f"no assignment {name!r}; in {folder} there are {there or 'none'}; for one of your own use --masters FOLDER"
        )
    if name not in ASSIGNMENTS:
        own.use(name, folder)
    try:
        text = path.read_text(encoding="utf-8")
        cells, metadata = read(text)
    except (UnicodeDecodeError, Unreadable) as error:
        raise BrokenMaster([f"{path}: {error}"]) from None
    if problems := [line for cell in cells for line in _wrong(cell)]:
        raise BrokenMaster(problems)
    setup = tuple((cell.name, cell.source) for cell in cells if cell.extra.get("role") == "setup")
    items = tuple(_item(cell) for cell in cells if cell.grade.get("grade"))
    return Master(name, text, items, setup, metadata.get("multipole_lab", {}).get("interpret", False))


def _wrong(cell: Cell) -> list[str]:
    name = cell.name or "a cell without grade_id"
    for_tests = cell.kind == "code" and not cell.grade.get("solution")
    has_tests = for_tests or bool(hidden_tests(cell.source))
    fields = wrong_fields(name, cell.extra, cell.grade, has_tests) if cell.grade.get("grade") else ()
    return [*wrong_markers(name, cell.source), *fields]


def _item(cell: Cell) -> Item:
    extra = cell.extra
    return Item(
        name=extra["question"],
        title=extra["title"],
        points=cell.grade["points"],
        functions=tuple(extra.get("functions", ())),
        tests=hidden_tests(cell.source),
        library=extra.get("library", False),
        forbidden=tuple(extra.get("forbidden", ())),
        seconds=extra.get("seconds", 10),
        memory=extra.get("memory"),
        bonus=extra.get("bonus", False),
        cell=extra.get("cell", cell.name),
    )
