"""Tables that people fill in with a spreadsheet, read as it saved them, and written so that nothing is taken amiss."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from multipole_lab import files

_DELIMITERS = ",;\t"
_FORMULA = "=+-@\t\r＝＋－＠"
_NUMBER = re.compile(r"\d{1,9}(?:[.,]\d{1,9})?")


@dataclass
class Table:
    """A table with named columns.

    Attributes
    ----------
    columns : their names, in small letters.
    rows : {column: text} each, with the number of its first line in the file.
    delimiter, encoding : as the file had them, and gets them again.
    raw : the file's bytes.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    delimiter: str = ","
    encoding: str = "utf-8-sig"  # with a mark by which Excel knows it
    raw: bytes | None = None


def read_table(path: Path, needed: Sequence[str]) -> Table:
    """A table with commas, semicolons or tabs, in UTF-8, UTF-16 or what Windows writes; columns in any order.

    An empty file is a table without columns.

    Raises
    ------
    ValueError : what cannot be understood, with the number of its line.
    """
    raw = path.read_bytes()
    text, encoding = _decoded(path, raw)
    if not text.strip():
        return Table([], raw=raw)
    skipped = int(text[:4].lower() == "sep=")  # a line of Excel's own
    for delimiter in _DELIMITERS:
        numbered = _numbered(path, text, delimiter, skipped)
        try:
            line, header = next(numbered, (1, []))
        except ValueError:  # quotation marks of another delimiter's
            continue
        columns = [cell.strip().lower() for cell in header]
        if set(needed) <= set(columns):
            break
    else:
        raise ValueError(f"{path}, line {1 + skipped}: the columns {', '.join(needed)} are not there")
    named = [name for name in columns if name]
    if len(named) > len(set(named)) or any(mark in name for name in named for mark in _DELIMITERS):
        raise ValueError(f"{path}, line {line}: a column twice, or two delimiters: {', '.join(named)}")
    table = Table(named, [], delimiter, encoding, raw)
    for number, cells in numbered:
        if not any(cell.strip() for cell in cells):
            continue
        row = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
        beyond = [cell for i, cell in enumerate(cells) if i >= len(columns) or not columns[i]]
        if any(cell.strip() for cell in beyond) or not set(needed) <= set(row):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells, and the first line names {len(named)} columns (is there "
                f"a decimal comma? put the number in quotes): {delimiter.join(cells)[:100]}"
            )
        table.rows.append((number, {name: row.get(name, "") for name in named}))
    return table


def write_table(path: Path, table: Table) -> None:
    """Write a table in its own dialect.

    Raises
    ------
    ValueError : the file has changed since it was read: somebody saved it meanwhile.
    """
    rows = [[row.get(name, "") for name in table.columns] for _, row in table.rows]
    data = as_csv([table.columns, *rows], table.delimiter).encode(table.encoding)
    there = path.read_bytes() if path.is_file() else None
    if there != table.raw:
        raise ValueError(f"{path} was changed while it was read; nothing was written, run this again")
    if data != there:
        with files.replacing(path) as partial:
            partial.write_bytes(data)


def as_csv(rows: Iterable[Sequence[str]], delimiter: str = ",") -> str:
    """The text of a table; what a spreadsheet with another delimiter would divide stands in quotes."""
    return "".join(delimiter.join(map(_cell, row)) + "\r\n" for row in rows)


def number(text: str) -> float | None:
    """A number with a point or a comma, or None for anything else."""
    text = text.strip().strip("\N{NO-BREAK SPACE}")
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) and text.isascii() else None


def harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.lstrip(" \n")[:1] in [*_FORMULA] else text


def _cell(text: object) -> str:
    text = str(text)
    quoted = any(mark in text for mark in '",;\t\r\n') or text != text.strip()
    return '"' + text.replace('"', '""') + '"' if quoted else text


def _decoded(path: Path, raw: bytes) -> tuple[str, str]:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        tries = (("utf-16", "utf-16"),)
    elif b"\0" in raw[:2]:
        tries = (("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be", "utf-16"),)
    else:
        tries = (("utf-8-sig", "utf-8-sig"), ("cp1252", "utf-8-sig"))
    for encoding, again in tries:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, again
    raise ValueError(f"{path} is no table of text; save it as CSV")


def _numbered(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of their first lines."""
    lines = io.StringIO(text, newline="")
    for _ in range(skipped):
        lines.readline()
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: {error} (a quotation mark too many or too few?)"
            ) from None
        if cells is None:
            return
        yield line, cells
