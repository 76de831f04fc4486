"""Results that survive a kill: JSON lines, one header and then one row a piece of work, flushed as they come."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

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
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+", encoding="utf-8", newline="\n")
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row with an ``id`` and a ``method``; it is on the disk when this returns."""
        self._write(row)
        row = json.loads(json.dumps(row))  # as a second run would read it
        self.rows[row["id"], row["method"]] = row

    def _write(self, entry: Mapping[str, object]) -> None:
        self._file.write(json.dumps(entry, allow_nan=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.path} is being written by another run; wait, or give another --out"
            ) from None

    def _read(self) -> None:
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            if whole == 0 and not raw.startswith(b'{"format": "multipole-lab'[: len(raw)]):
                raise self._foreign()
            self._file.truncate(whole)
        lines = raw[:whole].splitlines()
        if not lines:
            self.header = {
                "format": self.format, "settings_sha256": settings_hash(self.settings), "settings": self.settings,
                **self.note,
            }  # fmt: skip
            self._write(self.header)
            return
        self.header = self._entry(lines[0], 1)
        if self.header.get("format") != self.format:
            raise self._foreign()
        self._check_settings()
        for number, line in enumerate(lines[1:], 2):
            row = self._entry(line, number)
            if not {"id", "method"} <= row.keys():
                raise ValueError(f"{self.path}, line {number}: a row without id and method")
            self.rows[row["id"], row["method"]] = row

    def _entry(self, line: bytes, number: int) -> dict:
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number == 1:
                raise self._foreign() from None
            raise ValueError(f"{self.path}, line {number} is no JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{self.path}, line {number} is no JSON object")
        return entry

    def _foreign(self) -> ValueError:
        return ValueError(f"{self.path} is no results file of multipole-lab {self.kind}; give another --out")

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
