"""Rows of a long measurement: kept in a file that a second run continues, or only in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multipole_lab.environment import Measured

Measure = Callable[[], Mapping[str, object]]


class Rows:
    """What was measured, by stage and method; ``get`` measures only what is not there yet."""

    def __init__(self, journal=None) -> None:
        self._journal = journal
        self._known = {} if journal is None else journal.rows

    def get(self, stage: str, method: str, measure: Measure) -> dict:
        """The row of a stage and a method: the one that is kept, or what ``measure`` returns, which is kept."""
        if (stage, method) not in self._known:
            row = {"id": stage, "method": method, **measure()}
            if self._journal is None:
                self._known[stage, method] = row
            else:
                self._journal.add(row)
        return self._known[stage, method]


@contextlib.contextmanager
def kept_rows(
    out: str | Path | None, kind: str, settings: Mapping[str, object], measured: Measured
) -> Iterator[Rows]:
    """Rows in the file ``out``, as JSON lines, or in memory where it is None.

    The file goes on only where settings, machine, precision and versions are those that it was begun with.

    Raises
    ------
    ValueError : for a file with other settings (they are named), or of something else; see ``evaluation.Journal``.
    """
    if out is None:
        yield Rows()
        return
    from multipole_lab.journal import Journal

    with Journal(out, {**settings, **measured.identity()}, measured.facts(), kind) as journal:
        yield Rows(journal)
