"""Cells as IPython takes them: commands (``%time``, ``x = !ls``, ``weights?``) become plain Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

# Magics whose text is Python: the text runs, without being timed.
_TIMED = "time|timeit|prun|capture"
_CELL = re.compile(rf"\A\s*%%(?:{_TIMED})\b[^\n]*\n")
_LINE = re.compile(
    rf"^([ \t]*(?:[\w, ]+=[ \t]*)?)%(?:{_TIMED})\b(?:[ \t]+-\w+(?:[ \t]*\d+)?)*[ \t]*", re.MULTILINE
)
_OTHER_CELL = re.compile(r"\A\s*%%")


def as_python(source: str) -> str:
    """The cell as Python; what IPython does not take either stays, and is the SyntaxError that it is.

    Shell commands and magics turn into calls of ``get_ipython()``, for which the student's process has a stand-in.
    """
    if _parses(source):
        return source
    source = _CELL.sub("\n", source)
    if _OTHER_CELL.match(source):
        return ""  # %%bash, %%html: no Python
    source = _LINE.sub(r"\1", source)
    return source if _parses(source) else _transform()(source)


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _transform() -> Callable[[str], str]:
    """IPython's own transformation; where it is not installed, lines with commands are left empty."""
    try:
        from IPython.core.inputtransformer2 import TransformerManager
    except ImportError:
        return _without_commands

    def transformed(source: str) -> str:
        try:
            return TransformerManager().transform_cell(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return source

    return transformed


def _without_commands(source: str) -> str:
    lines = source.split("\n")
    return "\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in lines)
