"""A run's log as JSON lines: one row a logged step, one for every look at the held-out text."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

LOG = "log.jsonl"


class Journal:
    """Rows in a file that can be added to, cut back and read while it is written."""

    def __init__(self, folder: str | Path) -> None:
        self.file = Path(folder) / LOG

    def write(self, row: dict) -> None:
        """Add a row; it is on disk when this returns."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict]:
        """All whole rows; a last one that was cut off by a crash is left out."""
        if not self.file.is_file():
            return []
        found = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found

    def cut(self, step: int) -> None:
        """Keep the rows up to a step: what a run that goes on from there will not write again."""
        kept = "".join(json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step)
        passing = self.file.with_suffix(".new")
        passing.write_text(kept, encoding="utf-8")
        os.replace(passing, self.file)


def _finite(row: dict) -> dict:
    """JSON knows no NaN: a loss that is none becomes null."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}
