"""Does a student's function use what its question forbids? `check` says so where the grader would give no points."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator

from multipole_lab.course.questions import forbidden
from multipole_lab.course.questions.question import Question


def not_allowed(asked: Question, function: Callable) -> str | None:
    """The first forbidden name in a function, its helpers and its kernels; None where there is none or no source."""
    kernels_only = "torch" in asked.forbidden  # the launchers around them are given, and use torch
    for one in _reached(function, set(asked.uses)):
        if kernels_only and isinstance(one, types.FunctionType):
            continue
        inner = one if isinstance(one, types.FunctionType) else one.fn
        try:
            text = textwrap.dedent(inspect.getsource(inner))
        except (OSError, TypeError):
            continue
        name = forbidden.found_in(text, asked.forbidden)
        if name is None and not asked.library:
            name = _package(text, inner.__globals__)
        if name:
            return name
    return None


def _reached(function: object, others: set[str]) -> Iterator:
    """A function and those of the same notebook that it calls; not ``others``, which are questions of their own."""
    waiting, seen = [function], set()
    while waiting:
        one = waiting.pop()
        inner = getattr(one, "fn", one)  # Triton's wrapper of a kernel
        if not isinstance(inner, types.FunctionType) or id(inner) in seen:
            continue
        seen.add(id(inner))
        yield one
        for name in names_in(inner.__code__):
            value = inner.__globals__.get(name)
            if (
                name not in others
                and getattr(getattr(value, "fn", value), "__globals__", None) is inner.__globals__
            ):
                waiting.append(value)


def names_in(code: types.CodeType) -> set[str]:
    """The names that a function's code, or the functions inside it, look up."""
    inside = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(names_in, inside))


def _package(text: str, namespace: dict) -> str | None:
    """The first thing in a text that comes from a package with ready answers."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a lambda in the middle of a call
        return None
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
        if isinstance(node, ast.Name):
            value = namespace.get(node.id)
            home = (
                value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            )
            imported = [home] if isinstance(home, str) else []
        for home in imported:
            if home.split(".")[0] in forbidden.PACKAGES and not namespace.get("__name__", "").startswith(
                home
            ):
                return node.id if isinstance(node, ast.Name) else home
    return None
