"""A notebook run cell by cell without its panels, for tests that compute what its sentences say."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import nbformat
from plotly.basedatatypes import BaseFigure

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
# Characters that an output shows in one line, in a window of 900 pixels with the list of files open.
WIDEST = 58
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


@dataclass
class Ran:
    """What one cell left: all that it printed, the value of its last line, the figures that it showed, all names."""

    printed: str = ""
    value: object = None
    figures: list[BaseFigure] = field(default_factory=list)
    names: dict[str, object] = field(default_factory=dict)

    def __getattr__(self, name: str) -> object:
        """A variable, as it was after this cell."""
        try:
            return self.names[name]
        except KeyError:
            raise AttributeError(f"the cell leaves no {name!r}") from None

    def rows(self, pattern: str) -> list[tuple[float, ...]]:
        """The numbers of every match of a pattern in what was printed, one tuple a match."""
        return [tuple(map(number_or_word, hit.groups())) for hit in re.finditer(pattern, self.printed)]

    def column(self, pattern: str) -> list[float]:
        """The one number of every match of a pattern in what was printed."""
        return [number for (number,) in self.rows(pattern)]


class Notebook:
    """Cells by number, from 0, as the issue and the tests count them; solutions by (exercise, block), from (1, 0).

    Parameters
    ----------
    number : of the notebook, "05"; the one file in ``notebooks/`` that begins so.
    without : endings of cells that are not run, for they measure times.
    """

    def __init__(self, number: str, without: tuple[str, ...] = ()) -> None:
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        self.cells = nbformat.read(path, as_version=4).cells
        for cell in self.cells:
            if cell.cell_type == "code" and cell.id.endswith(tuple(f"-{ending}" for ending in without)):
                cell.source = ""
        self._names: dict[str, object] = {
            "__name__": "notebook"
        }  # one for all, as functions look things up in it
        self._ran: list[Ran] = []
        self._solved: dict[int, list[Ran]] = {}

    def says(self, pattern: str) -> tuple[float | str, ...]:
        """Find a sentence of the prose by a pattern, with numbers as numbers; fail where it is said no longer."""
        prose = " ".join(" ".join(cell.source for cell in self.cells if cell.cell_type == "markdown").split())
        hits = list(re.finditer(pattern, prose))
        assert len(hits) == 1, f"{len(hits)} places say {pattern!r}"
        return tuple(map(number_or_word, hits[0].groups()))

    def cell(self, ending: str) -> Ran:
        """Return the cell whose id ends so ("08"), after it and the code cells before it have run."""
        place = next(i for i, cell in enumerate(self.cells) if cell.id.endswith(f"-{ending}"))
        for i in range(len(self._ran), place + 1):
            code = self.cells[i].cell_type == "code"
            self._ran.append(run(self.cells[i].source if code else "", self._names))
            check_narrow(self._ran[-1], self.cells[i].id)
        return self._ran[place]

    def solution(self, exercise: int) -> list[Ran]:
        """Run the blocks of an exercise's folded solution one after the other, after all cells; each one's result."""
        if exercise not in self._solved:
            last = [cell for cell in self.cells if cell.cell_type == "code"][-1]
            names = dict(self.cell(last.id.rsplit("-", 1)[1]).names)
            self._names.clear()
            self._names.update(names)
            prose = "\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")
            text = re.split(r"^\*\*\d\.\*\* ", prose.split("## Exercises")[1], flags=re.M)[exercise]
            blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
            self._solved[exercise] = [run(block, self._names) for block in blocks]
            for ran in self._solved[exercise]:
                check_narrow(ran, f"the solution of exercise {exercise}")
        return self._solved[exercise]


def run(source: str, names: dict[str, object]) -> Ran:
    """Execute one cell among the names, without lines that open a panel; keep the names as they were after it."""
    source = re.sub(r"^ml\.panels\..*$", "", source, flags=re.M)
    tree, ran, text = ast.parse(source), Ran(), io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with (
        redirect_stdout(text),
        patch.object(BaseFigure, "show", lambda figure, **_: ran.figures.append(figure)),
    ):
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            ran.value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    ran.printed, ran.names = text.getvalue(), dict(names)
    return ran


def check_narrow(ran: Ran, where: str) -> None:
    """Fail where a printed line is wrapped in a narrow window."""
    wide = [line for line in ran.printed.splitlines() if len(line) > WIDEST]
    assert not wide, f"{where} prints lines that wrap in a narrow window: {wide}"


def number_or_word(text: str) -> float | str:
    """'4,096', '0.02', '38%' and 'three' as numbers; other words as they are."""
    plain = text.lower().replace(",", "").strip()
    if plain in WORDS:
        return float(WORDS.index(plain))
    try:
        return float(plain.rstrip("%")) / (100 if plain.endswith("%") else 1)
    except ValueError:
        return text


def by_the_clock(measure: Callable[[], object], holds: Callable[[object], bool], tries: int = 6) -> None:
    """What a clock says in one of so many tries: in the others somebody else may have had the processor."""
    found = []
    for _ in range(tries):
        found.append(measure())
        if holds(found[-1]):
            return
    raise AssertionError(found)
