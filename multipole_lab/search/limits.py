"""What searches and cost models refuse: an error that is no limit, and what is no table of ``ml.sweep``."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real


def check_max_error(max_error: object, more: str = "") -> None:
    """A number above 0."""
    if isinstance(max_error, bool) or not isinstance(max_error, Real):
        raise TypeError(f"max_error is {max_error!r}; a number above 0 is needed{more}")
    if not max_error > 0:
        raise ValueError(f"max_error is {max_error!r}; a number above 0 is needed{more}")


def check_table(table: object, columns: Iterable[str]) -> None:
    """A data frame with these columns."""
    if not hasattr(table, "columns"):
        raise TypeError(f"table is a {type(table).__name__}; a table of ml.sweep is needed")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"table has no column {', '.join(missing)}; a table of ml.sweep is needed")
