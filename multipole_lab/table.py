"""Tables of results: pandas' data frames that print whole, in 80 columns."""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import pandas

from multipole_lab.environment import Measured

Cell = Callable[[str, object], str]
# The widest print; a narrower terminal gets narrower ones. Longer tables print their two ends.
WIDTH, ROWS = 80, 400
# A text is broken into lines where a table is too wide, but into none narrower than this.
NARROW = 24


class Table(pandas.DataFrame):
    """A data frame like any other, except for how it prints: no column and no method is ever hidden.

    A plain one shows ``...`` in place of the columns that do not fit, and of all but the first 50 letters of a text.
    Here columns with one value throughout go under a table that is too wide, long texts take several lines, and what
    is wider still comes in blocks. What is computed from a table is a table; ``to_string`` and all else is pandas' own.
    """

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def __repr__(self) -> str:
        if self.empty:
            return super().__repr__()
        return "\n".join(filter(None, (printed(self), self._place())))

    def _repr_html_(self) -> str | None:
        options = {
            "max_colwidth": None,
            "max_columns": None,
            "max_rows": ROWS,
            "float_format": _float_format(),
        }
        with pandas.option_context(
            *(x for name, value in options.items() for x in (f"display.{name}", value))
        ):
            page, place = super()._repr_html_(), self._place()
        return f"{page}<p>{html.escape(place)}</p>" if page and place else page

    def _place(self) -> str:
        """Where the times are from, where that is known: ``attrs["measured"]`` has the facts of a ``Measured``."""
        facts = self.attrs.get("measured")
        return textwrap.fill(f"measured on {Measured(**facts).words}", screen()) if facts else ""


@dataclass(frozen=True)
class _Column:
    """A heading and a cell for each row, all of them text; words stand left, numbers right."""

    name: str
    cells: list[str]
    words: bool

    @classmethod
    def of(cls, name: object, values: pandas.Series | pandas.Index, cell: Cell | None = None) -> _Column:
        name = " ".join(map(str, name)) if isinstance(name, tuple) else "" if name is None else str(name)
        cells = [(cell or _cell)(name, value) for value in values]
        return cls(name, cells, not pandas.api.types.is_numeric_dtype(values.dtype))

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))

    def lines(self, row: int, width: int) -> list[str]:
        """One cell, or the heading (row -1), in lines of that width."""
        text = self.name if row < 0 else self.cells[row]
        parts = (
            textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
            if len(text) > width
            else [text]
        )
        return [part.ljust(width) if self.words else part.rjust(width) for part in parts]


def screen() -> int:
    """The columns that a print may have: 80, or those of a narrower terminal."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def printed(table: pandas.DataFrame, width: int | None = None, cell: Cell | None = None) -> str:
    """A table as text of at most ``width`` columns: 80 by default, or what a narrower terminal has.

    ``cell`` makes the text of a value, given its column's name as well; numbers have four digits by default.
    """
    width = screen() if width is None else width
    rows, note = len(table), ""
    if rows > ROWS:
        table = pandas.concat([table.head(ROWS // 2), table.tail(ROWS // 2)])
        note = f"\nthe first and the last {ROWS // 2} of {rows:,} rows; to_string() has them all"
    plain = isinstance(table.index, pandas.RangeIndex) and table.index.start == 0 and table.index.step == 1
    label = [_Column.of(name, table.index.get_level_values(i)) for i, name in enumerate(table.index.names)]
    columns = [_Column.of(name, table.iloc[:, j], cell) for j, name in enumerate(table.columns)]
    shown = columns if plain else label + columns
    if _width(shown, 2) <= width:
        return _block(shown, 2) + note
    same = [column for column in columns if rows > 1 and len(set(column.cells)) == 1]
    kept = [column for column in columns if column not in same] or columns
    if same and len(kept) < len(columns):
        words = ", ".join(f"{column.name} {column.cells[0]}" for column in same)
        note = "\n" + textwrap.fill(f"in every row: {words}", width, subsequent_indent="  ") + note
    shown = kept if plain else label + kept
    for gap in (2, 1):
        if _width(shown, gap) <= width:
            return _block(shown, gap) + note
    letters = _letters(shown, width)
    if letters >= NARROW:
        return _block(shown, 1, letters) + note
    return "\n\n".join(_block(block, 1, letters) for block, letters in _blocks(label, kept, width)) + note


def _blocks(label: list[_Column], columns: list[_Column], width: int) -> list[tuple[list[_Column], int]]:
    """As many columns side by side as fit, every block with the rows' labels; and the letters for each text."""
    blocks, now = [], list(label)
    for column in columns:
        if len(now) > len(label) and _width([*now, column], 1, NARROW) > width:
            blocks.append(now)
            now = list(label)
        now = [*now, column]
    return [(block, _letters(block, width) or NARROW) for block in [*blocks, now]]


def _width(columns: list[_Column], gap: int, letters: int | None = None) -> int:
    """How wide a table is whose words get at most that many letters."""
    return sum(_cut(column, letters) for column in columns) + gap * (len(columns) - 1)


def _cut(column: _Column, letters: int | None) -> int:
    return column.width if letters is None or not column.words else min(column.width, letters)


def _letters(columns: list[_Column], width: int) -> int:
    """The most letters that each text may have in a line so that the table fits."""
    numbers = range(max(column.width for column in columns), 0, -1)
    return next((letters for letters in numbers if _width(columns, 1, letters) <= width), 0)


def _block(columns: list[_Column], gap: int, letters: int | None = None) -> str:
    widths = [_cut(column, letters) for column in columns]
    lines = []
    for row in range(-1, len(columns[0].cells)):
        cells = [column.lines(row, width) for column, width in zip(columns, widths, strict=True)]
        for i in range(max(map(len, cells))):
            parts = [
                cell[i] if i < len(cell) else " " * width for cell, width in zip(cells, widths, strict=True)
            ]
            lines.append((" " * gap).join(parts).rstrip())
    return "\n".join(lines)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        return _float_format()(value) if value == value else "NaN"
    return "-" if value is None else " ".join(str(value).splitlines())


def _float_format() -> Callable[[float], str]:
    """The user's own format for numbers, or four digits."""
    return pandas.get_option("display.float_format") or "{:.4g}".format
