"""The lines of a master's cells that part solutions and hidden tests from what students get."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

BEGIN_SOLUTION, END_SOLUTION = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_TESTS, END_TESTS = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
DELIMITERS = (BEGIN_SOLUTION, END_SOLUTION, BEGIN_TESTS, END_TESTS)

_NEARLY = 0.85  # how much of a line has to be that of a delimiter, to be taken for a misspelt one


def hidden_tests(source: str) -> str:
    """What stands between the delimiters of hidden tests."""
    return "\n".join(line for line, kind in parts(source) if kind == "tests")


def without_tests(source: str) -> str:
    """A master's cell with its solution, as the notebook that is handed out after the deadline has it."""
    return "\n".join(line for line, kind in parts(source) if kind != "tests")


def parts(source: str) -> list[tuple[str, str]]:
    """Every line with its kind: public, solution or tests; the delimiters themselves are left out."""
    kind, result = "public", []
    for line in source.split("\n"):
        mark = line.strip()
        if mark in (BEGIN_SOLUTION, BEGIN_TESTS):
            kind = "solution" if mark == BEGIN_SOLUTION else "tests"
        elif mark in (END_SOLUTION, END_TESTS):
            kind = "public"
        else:
            result.append((line, kind))
    return result


def wrong_markers(cell: str, source: str) -> Iterator[str]:
    """A line for each delimiter of a cell that is misspelt, or that has no partner."""
    waiting = None
    for line in map(str.strip, source.split("\n")):
        if line in DELIMITERS:
            begins = line in (BEGIN_SOLUTION, BEGIN_TESTS)
            if begins == (waiting is not None) or (waiting and line != waiting):
                yield f"{cell}: {line!r} stands where {waiting or 'a BEGIN'!r} is needed"
                return
            waiting = line.replace("BEGIN", "END") if begins else None
        elif line.startswith("#") and (
            near := difflib.get_close_matches(line.upper(), DELIMITERS, 1, _NEARLY)
        ):
            yield f"{cell}: the line {line[:60]!r} is no marker; {near[0]!r} is allowed"
            return
    if waiting:
        yield f"{cell}: {waiting!r} is missing"
