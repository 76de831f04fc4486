"""What the benchmarks print and keep: rows as text or JSON lines, and a file that a crash does not lose."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap

from multipole_lab import files

STDOUT = "-"


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json [FILE]``."""
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE",
        help="one JSON object a line instead of text; with FILE also all rows, with device and versions, in FILE",
    )  # fmt: skip


class Record:
    """Rows of one benchmark: printed as they come, and written to the file after every one.

    Parameters
    ----------
    target : None for text, "-" for JSON lines, otherwise the file for the whole record.
    device : the device that the times are of. dtype : their precision; None where every row says its own.
    threads : of torch in the processes that are timed, where those are others.
    facts : what belongs to all rows, a measured roofline for example.
    """

    def __init__(
        self,
        target: str | None,
        device: str,
        dtype: str | None = None,
        threads: int | None = None,
        **facts: object,
    ) -> None:
        from multipole_lab.environment import Measured

        measured = Measured.here(device, dtype, "multipole-lab bench", threads)
        self.target, self.rows = target, []
        self.head = {**measured.facts(), **facts}
        said = [f"{name} {value}" for name, value in facts.items() if not isinstance(value, dict)]
        self.note("; ".join(filter(None, (str(measured), ", ".join(said)))))

    def note(self, text: str) -> None:
        """Print text that is no row; to the error stream where the output is JSON."""
        print(wrap_cells(text), file=sys.stderr if self.target == STDOUT else sys.stdout, flush=True)

    def add(self, row: dict, text: str) -> None:
        """Print a row and keep it."""
        self.rows.append(row)
        text = wrap_cells(text)
        if self.target == STDOUT:
            text = json.dumps({"device": self.head["device"], "dtype": self.head["dtype"], **row})
        print(text, flush=True)
        if self.target not in (None, STDOUT):
            files.write(self.target, json.dumps({**self.head, "rows": self.rows}, indent=1) + "\n")


def wrap_cells(text: str, width: int = 80) -> str:
    """The text with its long lines broken between words."""
    lines = (textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
             if len(line) > width else line for line in text.splitlines())  # fmt: skip
    return "\n".join(lines)
