"""What is printed in one line: settings that differ from their defaults, and tensors as their shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

# Longer texts and lists are shown by their beginning or their length.
LONG = 60


def changed(instance: object) -> str:
    """A dataclass as the call that makes it again: only the arguments that differ from their defaults.

    ``MuSe()``, ``MuSe(order='dipole')``: Python reads it back.
    """
    shown = [
        f"{field.name}={literal(value)}"
        for field in dataclasses.fields(instance)
        if field.init and field.repr and (value := getattr(instance, field.name)) != default_of(field)
    ]
    return f"{type(instance).__name__}({', '.join(shown)})"


def literal(value: object) -> str:
    """Python's own text for a value; a number of NumPy's as that number."""
    return float.__repr__(value) if isinstance(value, float) else repr(value)


def default_of(field: dataclasses.Field) -> object:
    """The default of a field, or something that equals no value."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def one_line(instance: object) -> str:
    """A dataclass or named tuple in one line: tensors by shape, tables and long lists by length."""
    if dataclasses.is_dataclass(instance):
        names = [field.name for field in dataclasses.fields(instance) if field.repr]
    else:
        names = instance._fields
    shown = ", ".join(f"{name}={brief(getattr(instance, name))}" for name in names)
    return f"{type(instance).__name__}({shown})"


def brief(value: object) -> str:
    """One value in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return shape_of(value)
    text = literal(value)
    if len(text) <= LONG and "\n" not in text:
        return text
    if isinstance(value, Collection) and not isinstance(value, str):
        return f"<{count(len(value), 'item')}>"
    return f"{text.splitlines()[0][: LONG - 4]} ..."


def shape_of(tensor: object) -> str:
    """``float32 [1, 9, 64, 64]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 layer``, ``8,192 tokens``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
