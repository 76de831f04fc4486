"""What the metadata of a master's graded cell may say, and what is wrong with what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from multipole_lab.course.questions import forbidden


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_whole(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.isidentifier() for one in value)


def _are_groups(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one in forbidden.GROUPS for one in value)


# {a field: (what is allowed in words, whether a value is)}
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "question": ('a name such as "A6.1"', _is_text),
    "title": ("a few words", _is_text),
    "functions": ('a list of the names that the tests call, such as ["entropy"]', _are_names),
    "cell": ("the grade_id of the cell for the solution", _is_text),
    "library": ("true or false", _is_flag),
    "forbidden": (f"a list of {', '.join(forbidden.GROUPS)}", _are_groups),
    "seconds": ("a whole number above 0", _is_whole),
    "memory": ("megabytes, a whole number above 0", _is_whole),
    "bonus": ("true or false", _is_flag),
}
_NEEDED = ("question", "title")


def wrong_fields(cell: str, extra: dict, grade: dict, has_tests: bool) -> Iterator[str]:
    """A line for each field of a graded cell that is missing, unknown, or not what it may be.

    Parameters
    ----------
    cell : its grade_id, for the message.
    extra, grade : the metadata of this course, and nbgrader's.
    has_tests : whether it is graded by tests, and not by a person.
    """
    needed = (*_NEEDED, "functions") if has_tests else _NEEDED
    for name in needed:
        if name not in extra or (name == "functions" and extra[name] == []):
            yield f"{cell}: the metadata multipole_lab has no {name!r}; {_FIELDS[name][0]} is needed"
    for name, value in extra.items():
        if name not in _FIELDS:
            yield f"{cell}: the metadata multipole_lab has {name!r}; {', '.join(_FIELDS)} are allowed"
        elif not _FIELDS[name][1](value):
            yield f"{cell}: {name!r} is {value!r} in the metadata multipole_lab; {_FIELDS[name][0]} is allowed"
    if grade.get("points") != 0 and not _is_number(
        grade.get("points")
    ):  # nbgrader's source has 0 for a bonus
        said = f"{grade['points']!r} points" if "points" in grade else "no 'points'"
        yield f"{cell}: the metadata nbgrader has {said}; a number above 0 is needed"
