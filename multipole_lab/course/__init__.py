"""Course assignments: checks for students, and for instructors release, grading and reports.

Students need `check` alone. What the graders compare with stands in the master notebooks under
``notebooks/assignments/`` and is not installed. Names are resolved when first used: the process that runs
students' code imports this package and must find nothing in it.
"""

from __future__ import annotations

import importlib

_WHERE = {
    "Diagnosis": "checking",
    "Marks": "marks",
    "Random": "question",
    "check": "checking",
    "halves": "a1",
    "oracle": "question",
    "same": "compare",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
