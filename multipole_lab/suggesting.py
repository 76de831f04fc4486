"""Did you mean: a name that is not there is answered with the nearest one that is, and with all of them.

Imports nothing heavy: the command line and the packages whose names are resolved when first used start with it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from multipole_lab.printing import count

Function = TypeVar("Function", bound=Callable)


def nearest(typed: str, known: Iterable[object]) -> str | None:
    """The known name that is spelt most like the typed one, in whatever case; None where none is like it."""
    by_letters = {str(one).lower(): str(one) for one in known}
    close = difflib.get_close_matches(str(typed).lower(), by_letters, n=1, cutoff=0.5)
    return by_letters[close[0]] if close else None


def question(typed: object, known: Iterable[object]) -> str:
    """``"; did you mean 'clusters'?"``, or nothing where nothing is near."""
    close = nearest(typed, known) if isinstance(typed, str) else None
    return f"; did you mean {close!r}?" if close else ""


def check_choice(name: str, value: object, allowed: Sequence[str], more: str = "") -> None:
    """Refuse what is none of the allowed words with a ValueError; ``more`` ends the list of them."""
    if not isinstance(value, str) or value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} is {value!r}; allowed are {words}{more}{question(value, allowed)}")


def check_names(what: str, typed: Iterable[str], known: Collection[str]) -> None:
    """Refuse keyword arguments that are not known with a TypeError."""
    for name in typed:
        if name not in known:
            takes = f"It takes: {', '.join(known)}" if known else "It takes none"
            raise TypeError(f"{what} has no argument {name!r}{question(name, known) or '.'} {takes}")


def suggesting(function: Function) -> Function:
    """A public function that answers a wrong argument with the right ones (Python itself does so from 3.13 on)."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return function
    own = bool(parameters) and parameters[0].name == "self"  # a method's first argument, which nobody types
    known = tuple(p.name for p in parameters)[own:]
    by_place = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][own:]
    endless = any(p.kind is p.VAR_POSITIONAL for p in parameters)

    @functools.wraps(function)
    def checked(*args, **kwargs):
        own_name = function.__name__ in ("__call__", "__init__") and args
        name = type(args[0]).__name__ if own_name else function.__name__
        if len(args) - own > len(by_place) and not endless:
            too_many(name, len(args) - own, by_place, [other for other in known if other not in by_place])
        check_names(name, kwargs, known)
        return function(*args, **kwargs)

    return checked


def too_many(what: str, came: int, by_place: Sequence[str], by_name: Sequence[str] = ()) -> NoReturn:
    """Refuse more values than there are places for."""
    places = f"at most {len(by_place)} unnamed ({', '.join(by_place)})" if by_place else "none unnamed"
    others = f"; by name it takes: {', '.join(by_name)}" if by_name else ""
    raise TypeError(f"{what} got {count(came, 'argument')} and takes {places}{others}")


def check_fields(kind: type, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """The same for the arguments that a dataclass is made of, and for words that stand in another one's place."""
    fields = tuple(field.name for field in dataclasses.fields(kind) if field.init)
    check_names(kind.__name__, kwargs, fields)
    if len(args) > len(fields):
        too_many(kind.__name__, len(args), fields)
    for name, value in zip(fields, args, strict=False):
        if isinstance(value, str):
            words = {field: _words(hint) for field, hint in get_type_hints(kind).items() if field in fields}
            meant = [field for field in words if value in words[field]]
            if meant and name not in meant:
                raise TypeError(
                    f"{kind.__name__} takes {name} here, and {value!r} came; did you mean {meant[0]}={value!r}?"
                )


def _words(hint: object) -> list[str]:
    """The words that a type such as ``int | Literal["auto"]`` allows."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in _words(part)]


def lazy_names(
    package: str, where: Mapping[str, str], subpackages: Collection[str] = (), old: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are resolved when first used.

    Parameters
    ----------
    package : its name.
    where : the module inside it that has each name (".other.module": one beside it). No module may bear the name of
        something it exports: once imported, it would stand in that thing's place.
    subpackages : modules that are imported when first named.
    old : modules that are, too, but go with the next version: they are not listed.
    """
    names = [*where, *subpackages]

    def get(name: str) -> object:
        if name in where:
            return getattr(importlib.import_module(f".{where[name]}", package), name)
        if name in subpackages or name in old:
            return importlib.import_module(f"{package}.{name}")
        raise no_attribute(package, name, public())

    def public() -> Sequence[str]:
        return getattr(sys.modules[package], "__all__", names)

    def listed() -> list[str]:
        own = [name for name in vars(sys.modules[package]) if name.startswith("__")]
        return sorted({*public(), *own})

    return get, listed


def no_attribute(package: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that a package has not; Python asks for some between underscores, which get no guess."""
    hint = "" if name.startswith("_") else question(name, known)
    return AttributeError(f"module {package!r} has no attribute {name!r}{hint}")


def known_names(package: str, known: Sequence[str]) -> Callable[[str], NoReturn]:
    """``__getattr__`` of a package that imports all its names: it is asked only for those that are not there."""

    def get(name: str) -> NoReturn:
        raise no_attribute(package, name, known)

    return get
