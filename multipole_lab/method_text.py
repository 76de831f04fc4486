"""Methods as text: ``MuSe(clusters=64, near=4)`` on a command line or in a file, and back.

Text is read as Python's own literals and never run: a file of results that somebody sent can be opened safely.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from multipole_lab import attention
from multipole_lab.attention import Method
from multipole_lab.decoding.cache import MultipoleCache
from multipole_lab.decoding.settings import Settings
from multipole_lab.printing import literal
from multipole_lab.renamed import today
from multipole_lab.suggesting import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# How a file begins that holds a method for each of some layers; ``ml.load_choice`` reads it.
CHOICE = "multipole_lab chosen layers 1"
# Written out also where it is the default: what a reader asks first about a method.
SIZES = ("clusters", "size", "keys")


def method_names() -> tuple[str, ...]:
    """The names that a text may start with: every method of ``ml.attention``, and ``MultipoleCache``."""
    return (*sorted(_methods()), MultipoleCache.__name__)


def parse_method(text: str, config: PreTrainedConfig | None = None) -> Method | MultipoleCache:
    """The method that a text describes; the inverse of ``as_text``.

    Parameters
    ----------
    text : a name and keyword arguments, such as ``MuSe(clusters=64, near=4)``, ``Exact()`` or
        ``MultipoleCache(budget=128, fraction=1/16)``; ``ml.`` before the name is allowed, and a bare name stands for
        the defaults. Values by their names of earlier versions, as files hold them, are read as today's.
    config : a model's configuration, which ``MultipoleCache`` takes (needed for ``rope='windowed'``).

    Raises
    ------
    ValueError : for what is no such text, an unknown name or argument (with the nearest known one), a value that the
        method refuses. The message quotes the text.
    """
    name, arguments = _read(text)
    if name == MultipoleCache.__name__:
        _settings(text, arguments)
        return _made(text, lambda: MultipoleCache(config=config, **arguments))
    return _method(text, name, arguments)


def check_method(text: str) -> str:
    """The same text in its shortest form, after all checks that need no model; raises as ``parse_method``."""
    name, arguments = _read(text)
    if name == MultipoleCache.__name__:
        return as_text(_settings(text, arguments))
    return as_text(_method(text, name, arguments))


def as_text(method: Method | MultipoleCache | Settings) -> str:
    """The shortest text that ``parse_method`` reads as this method: ``MuSe(clusters=64, near=4)``.

    Arguments that have their defaults are left out, except the size that says most of a method.
    """
    name, values, fields = _parts(method)
    shown = [
        f"{field.name}={literal(values[field.name])}"
        for i, field in enumerate(fields)
        if (i == 0 and field.name in SIZES) or values[field.name] != field.default
    ]
    return f"{name}({', '.join(shown)})"


def as_python(method: Method | MultipoleCache | Settings) -> str:
    """The line to paste after ``import multipole_lab as ml``: ``ml.MuSe(clusters=64, near=4)``."""
    return f"ml.{as_text(method)}"


def _parts(method: object) -> tuple[str, dict, tuple[dataclasses.Field, ...]]:
    if isinstance(method, MultipoleCache):
        method = method.settings
    name = MultipoleCache.__name__ if isinstance(method, Settings) else type(method).__name__
    if not dataclasses.is_dataclass(method) or name not in method_names():
        raise TypeError(f"method is a {type(method).__name__}; one of {', '.join(method_names())} is needed")
    fields = tuple(field for field in dataclasses.fields(method) if field.init)
    return name, {field.name: getattr(method, field.name) for field in fields}, fields


def _methods() -> Mapping[str, type[Method]]:
    kinds = (getattr(attention, name) for name in attention.__all__)
    return {
        kind.__name__: kind
        for kind in kinds
        if inspect.isclass(kind) and issubclass(kind, Method) and kind is not Method
    }


def _read(text: str) -> tuple[str, dict[str, object]]:
    """Name and keyword arguments, from the syntax alone."""
    if not isinstance(text, str):
        raise TypeError(f"method is a {type(text).__name__}; a text such as 'MuSe(clusters=64)' is needed")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"method {text!r} is not of the form Name(argument=value, ...)") from None
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name = call.func
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "ml":
        name = ast.Name(name.attr)
    if not isinstance(name, ast.Name):
        raise ValueError(f"method {text!r} is not of the form Name(argument=value, ...)")
    if name.id not in method_names():
        raise ValueError(f"method {text!r}: there is no {name.id!r}. {_suggestion(name.id, method_names())}")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"method {text!r}: give every argument by name, as in MuSe(clusters=64)")
    names = [keyword.arg for keyword in call.keywords]
    for argument in names:
        if names.count(argument) > 1:
            raise ValueError(f"method {text!r}: {argument} is given twice")
    return name.id, {keyword.arg: _value(text, keyword) for keyword in call.keywords}


def _value(text: str, keyword: ast.keyword) -> object:
    """A literal, or one number divided by another: 1/16."""
    node = keyword.value
    try:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return ast.literal_eval(node.left) / ast.literal_eval(node.right)
        return ast.literal_eval(node)
    except (ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        shown = ast.unparse(node)
        hint = f"; a word needs quotes: {keyword.arg}='{shown}'" if isinstance(node, ast.Name) else ""
        raise ValueError(
            f"method {text!r}: {keyword.arg} is {shown}; a plain value is needed{hint}"
        ) from None


def _method(text: str, name: str, arguments: dict[str, object]) -> Method:
    kind = _methods()[name]
    _check_names(text, name, arguments, [field.name for field in dataclasses.fields(kind) if field.init])
    arguments = {name: today(name, value) for name, value in arguments.items()}
    return _made(text, lambda: kind(**arguments))


def _settings(text: str, arguments: dict[str, object]) -> Settings:
    _check_names(text, MultipoleCache.__name__, arguments, Settings.__dataclass_fields__)
    return _made(text, lambda: Settings(**arguments))


def _check_names(text: str, name: str, arguments: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"method {text!r}: {name} has no {argument!r}. {_suggestion(argument, known)}")


def _made(text: str, make):
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {text!r}: {error}") from error


def _suggestion(typed: str, known: Iterable[str]) -> str:
    """The closest name as a question, and all of them."""
    known = list(known)
    close = nearest(typed, known)
    question = f"Did you mean {close!r}? " if close else ""
    return f"{question}There are {', '.join(known)}."
