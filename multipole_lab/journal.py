"""Results that survive a kill: JSON lines, one header and then one row a piece of work, flushed as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from multipole_lab.files import JsonLines

Key = tuple[str, str]


def settings_hash(settings: Mapping[str, object]) -> str:
    """SHA-256 of settings that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class Journal:
    """The rows of one evaluation in a file that is only appended to.

    Opening continues what is there: a last line without its end, which a kill left, is dropped. One process at a
    time; use as a context manager.

    Parameters
    ----------
    path : the file; made with its folder if it is not there.
    settings : everything that a row depends on but its ``id`` and ``method``.
    note : further entries for the header of a new file: command, versions, date.
    kind : the command whose results these are.

    Attributes
    ----------
    rows : the rows by (id, method).
    header : the header as it stands in the file.

    Raises
    ------
    ValueError : for a file that is something else, was made with other settings (they are named), has a malformed
        line (its number is named), or is being written by another process.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, object],
        note: Mapping[str, object],
        kind: str = "eval",
    ) -> None:
        self.path, self.kind = Path(path), kind
        self.format = f"multipole-lab {kind} 1"
        self.settings = json.loads(json.dumps(settings))
        self.note = dict(note)
        self.rows: dict[Key, dict] = {}
        self.header: dict = {}
        self._lines = JsonLines(self.path)

    def __enter__(self) -> Journal:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._lines)
            except BlockingIOError:
                raise ValueError(
                    f"{self.path} is being written by another run; wait, or give another --out"
                ) from None
            self._read()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row with an ``id`` and a ``method``; it is on the disk when this returns."""
        self._lines.add(row)
        row = json.loads(json.dumps(row))  # as a second run would read it
        self.rows[row["id"], row["method"]] = row

    def _read(self) -> None:
        if not self._lines.begins_with(json.dumps({"format": self.format})[:-1]):
            raise ValueError(
                f"{self.path} is no results file of multipole-lab {self.kind}; give another --out"
            )
        self.header, *rows = self._lines.entries() or [{}]
        if not self.header:
            self.header = {
                "format": self.format, "settings_sha256": settings_hash(self.settings), "settings": self.settings,
                **self.note,
            }  # fmt: skip
            self._lines.drop_unfinished_line()
            self._lines.add(self.header)
            return
        self._check_settings()
        for number, row in enumerate(rows, 2):
            if not {"id", "method"} <= row.keys():
                raise ValueError(f"{self.path}, line {number}: a row without id and method")
            self.rows[row["id"], row["method"]] = row
        self._lines.drop_unfinished_line()

    def _check_settings(self) -> None:
        if self.header.get("settings_sha256") == settings_hash(self.settings):
            return
        old, new = self.header.get("settings", {}), self.settings
        differing = [
            f"{name} was {json.dumps(old.get(name))} and is {json.dumps(new.get(name))}"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        raise ValueError(
            f"{self.path} was made with other settings: {'; '.join(differing)}. Give another --out, or remove the file"
        )
