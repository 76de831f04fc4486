"""Dataclasses as the lists of tensors and of numbers that a custom operator takes, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TypeVar, get_type_hints

from torch import Tensor

T = TypeVar("T")


def tensors_of(value: object) -> list[Tensor]:
    """The tensors of a dataclass, whose fields are tensors or such dataclasses, in the order of the fields."""
    found = []
    for field in fields(value):
        part = getattr(value, field.name)
        found += tensors_of(part) if is_dataclass(part) else [part]
    return found


def with_tensors(kind: type[T], tensors: Iterable[Tensor]) -> T:
    """The dataclass whose tensors these are."""
    return _filled(kind, iter(tensors))


def numbers_of(value: object) -> list[float]:
    """The numbers of a dataclass, whose fields are floats, integers or booleans, as floats."""
    return [float(getattr(value, field.name)) for field in fields(value)]


def with_numbers(kind: type[T], numbers: Iterable[float]) -> T:
    """The dataclass whose numbers these are."""
    return kind(*(of(x) for of, x in zip(_types(kind), numbers, strict=True)))


def _filled(kind: type[T], tensors: Iterator[Tensor]) -> T:
    return kind(*(_filled(of, tensors) if is_dataclass(of) else next(tensors) for of in _types(kind)))


@cache
def _types(kind: type) -> tuple[type, ...]:
    return tuple(get_type_hints(kind)[field.name] for field in fields(kind))
