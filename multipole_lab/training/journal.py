"""A run's log as JSON lines: one row a logged step, one for every look at the held-out text."""

from __future__ import annotations

import math
from pathlib import Path

from multipole_lab.files import JsonLines

LOG = "log.jsonl"


class Journal:
    """Rows in a file that can be added to, cut back and read while it is written.

    Parameters
    ----------
    folder : of the run; the file in it is made by the first row.
    """

    def __init__(self, folder: str | Path) -> None:
        self._lines = JsonLines(Path(folder) / LOG)

    def write(self, row: dict) -> None:
        """Add a row; it is on disk when this returns. What is no finite number becomes null, for JSON knows no NaN."""
        self._lines.add(
            {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}
        )

    def rows(self) -> list[dict]:
        """All whole rows; a last one that was cut off by a crash is left out.

        Raises
        ------
        ValueError : a row before the last is damaged; its line is named.
        """
        return self._lines.entries()

    def cut(self, step: int) -> None:
        """Keep the rows up to a step: what a run that goes on from there will not write again."""
        self._lines.keep(lambda row: row["step"] <= step)
