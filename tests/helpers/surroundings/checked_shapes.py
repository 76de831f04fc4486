"""The shapes that the library's annotations promise, checked at run time in the tests.

``install`` is called by conftest.py before the library is imported; the command line, notebooks and the processes
that tests start stay as they are. What jaxtyping annotates, functions, methods and dataclasses, is checked after
each call that returned: a call that refuses its arguments does so in its own words. Inside ``torch.compile`` nothing
is checked, for there the check would be a part of the graph; under the transforms of ``torch.func`` and for meta and
fake tensors all is.
"""

import contextlib
import dataclasses
import functools
import inspect
import random
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader

import torch
from beartype.door import is_bearable
from jaxtyping import jaxtyped

SHAPED = re.compile(r"\b(Bool|Float|Int|Shaped|UInt8)\[|\bPartial\b")


class Checking(MetaPathFinder):
    """Finds the modules of some packages as the other finders do, and wraps what they define."""

    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if not any(name == package or name.startswith(f"{package}.") for package in self.packages):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        # A file has a loader of its own; the one loader of all old names would check whatever has an old name.
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            wrap_all(module)

        spec.loader.exec_module = exec_module
        return spec


def install(*packages):
    """Check the shapes of these packages from now on; none may have been imported."""
    early = [name for name in sys.modules if name.startswith(packages)]
    assert not early, f"{early} were imported before their shapes could be checked"
    sys.meta_path.insert(0, Checking(packages))


def wrap_all(module):
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            setattr(module, name, checked(value))
        elif inspect.isclass(value) and not issubclass(value, torch.autograd.Function | tuple):
            wrap_class(value)


def wrap_class(cls):
    for name, value in list(vars(cls).items()):
        if isinstance(value, classmethod | staticmethod):
            setattr(cls, name, type(value)(checked(value.__func__)))
        elif isinstance(value, property):
            setattr(cls, name, property(checked(value.fget), value.fset, value.fdel, value.__doc__))
        elif inspect.isfunction(value) and not (name == "__init__" and dataclasses.is_dataclass(cls)):
            setattr(cls, name, checked(value))
    hints = shaped_hints(inspect.get_annotations(cls), vars(sys.modules[cls.__module__]))
    if dataclasses.is_dataclass(cls) and hints:
        init, agreed = cls.__init__, set()

        @functools.wraps(init)
        def __init__(self, *args, **kwargs):
            init(self, *args, **kwargs)
            if not torch.compiler.is_compiling():
                check(cls.__qualname__, {name: getattr(self, name) for name in hints}, hints, agreed)

        cls.__init__ = __init__


def checked(function):
    """The function; after each call its arguments and its result must have the shapes of their annotations."""
    inner = inspect.unwrap(function)
    hints = shaped_hints(inner.__annotations__, inner.__globals__)
    if not hints:
        return function
    parameters = inspect.signature(inner).parameters.values()
    assert all(one.kind is not one.VAR_POSITIONAL or one.name not in hints for one in parameters), inner
    names, agreed = [one.name for one in parameters], set()

    @functools.wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        if not torch.compiler.is_compiling():
            given = dict(zip(names, args, strict=False)) | kwargs | {"return": result}
            check(inner.__qualname__, given, hints, agreed)
        return result

    return call


def shaped_hints(annotations, names):
    """The annotations with a shape in them, read; others may name what is imported for type checkers alone."""
    shaped = {name: hint for name, hint in annotations.items() if SHAPED.search(str(hint))}
    return {name: eval(hint, names) if isinstance(hint, str) else hint for name, hint in shaped.items()}


def check(where, given, hints, agreed):
    """What is given has the shapes of its hints; ``agreed`` remembers the shapes that were seen to agree."""
    values = {name: given[name] for name in hints if name in given}  # an argument left out has its default
    key = *values, *map(shape_of, values.values())
    try:
        known = key in agreed
    except TypeError:  # sizes that are symbols have no hash: they are looked at each time
        known = None
    if known:
        return
    with jaxtyped("context"), same_random_numbers():
        for name, value in values.items():
            if not is_bearable(value, hints[name]):
                others = {n: described(v) for n, v in values.items() if n != name}
                raise AssertionError(
                    f"{where}: {name} is {described(value)}, annotated {hints[name]}, beside {others}"
                )
    if known is False:
        agreed.add(key)


@contextlib.contextmanager
def same_random_numbers():
    """beartype draws the item of a list that it looks at; the test's own draws stay as they are."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def shape_of(value):
    """All of a value that a check depends on."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape
    if isinstance(value, list | tuple):
        return type(value), *map(shape_of, value)
    return type(value), getattr(value, "dtype", None), getattr(value, "shape", None)


def described(value):
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(described, value))})"
    return f"{type(value).__name__} {getattr(value, 'shape', '')}"
