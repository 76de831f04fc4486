"""What runs in a student's process: the notebook's cells once, then its functions on inputs that the grader sends.

Nothing of a question's tests is here, and nothing that is said here is believed: an answer is a result that the
grader compares in its own process, with its own torch.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import functools
import importlib.abc
import linecache
import os
import resource
import socket
import sys
import types
import warnings
from collections.abc import Callable

import torch

from multipole_lab.course.sandbox import wire
from multipole_lab.course.sandbox.exponentials import Exponentials
from multipole_lab.course.sandbox.shell import Shell, execute

MESSAGE = 200  # characters of an error message that are passed on


class NotAllowed(ImportError):
    """A call that the question does not allow."""


def serve(sock: socket.socket, job: dict) -> None:
    """Run the cells, then answer calls until the grader hangs up.

    ``job`` has ``library`` (may multipole_lab be used), ``packages`` (that may not be imported), ``forbidden`` (dotted
    names of functions), ``operators`` (of ATen, that may not run under whatever name), ``count`` (whether to count
    exponentials), ``functions`` (to be called), ``seconds`` (of processor time for calls), ``environment``. The cells
    come as the first message: a list of [label, source].
    """
    wire.send(
        sock, {"alive": True}
    )  # the walls stand; what ends this process from now on is the student's doing
    os.environ.clear()
    os.environ.update(job["environment"])
    _replace_library(job["library"], job["packages"])
    for name in job["forbidden"]:
        _forbid(name)
    _forbid_operators(job["operators"])
    counter = Exponentials() if job["count"] else None
    if counter is not None:
        counter.install()
    # A real module, for a kernel's source is looked up by it.
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, get_ipython=Shell)
    sys.modules["__main__"] = module
    namespace = module.__dict__
    errors = []
    for index, (label, source) in enumerate(wire.receive(sock)):
        wire.send(sock, {"cell": index})
        error = _run(label, source, namespace)
        if error:
            errors.append([label, *error])
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit_time(int(used.ru_utime + used.ru_stime) + 1 + job["seconds"])
    defined = {name: callable(namespace.get(name)) for name in job["functions"]}
    functions = [
        name for name, value in namespace.items() if isinstance(value, types.FunctionType) and name[0] != "_"
    ]
    wire.send(sock, {"errors": errors, "defined": defined, "functions": functions[:50]})
    while True:
        sock.sendall(_answer(namespace, wire.receive(sock), counter))


def _run(label: str, source: str, namespace: dict) -> tuple[str, str] | None:
    """Execute one cell; its source can be looked up, as in a notebook. Returns what was raised."""
    filename = f"<{label}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    try:
        execute(source, filename, namespace)
    except BaseException as error:
        return describe(error)
    return None


def _limit_time(seconds: int, set_limit: Callable = resource.setrlimit) -> None:
    """From now on the question's own time counts; a process that prevents it has that of the cells besides."""
    with contextlib.suppress(ValueError, OSError):
        set_limit(resource.RLIMIT_CPU, (seconds, seconds))


def _answer(namespace: dict, call: dict, counter: Exponentials | None) -> bytes:
    """The packed message for one call: its result, or what was raised."""
    try:
        torch.manual_seed(0)
        before = counter.count if counter else 0
        result = namespace[call["name"]](*call["args"], **call["kwargs"])
        return wire.pack({"result": result, "exponentials": counter.count - before if counter else 0})
    except wire.WireError as error:
        return wire.pack({"error": ["WireError", f"it returned {error}, which cannot be compared"]})
    except BaseException as error:
        return wire.pack({"error": list(describe(error))})


def describe(error: BaseException) -> tuple[str, str]:
    """The name of an exception and the beginning of its message, even of one that resists."""
    try:
        return type(error).__name__[:60], str(error)[:MESSAGE]
    except BaseException:
        return "Exception", "an exception that cannot be printed"


def _replace_library(allowed: bool, packages: list[str]) -> None:
    """Take the grader's parts of the library away; without permission, the whole library."""
    for name in [name for name in sys.modules if name.split(".")[0] == "multipole_lab"]:
        del sys.modules[name]
    course = types.ModuleType("multipole_lab.course")
    course.check = lambda *args, **kwargs: (
        None
    )  # checks are for students; nothing is to be learnt from them here
    sys.modules["multipole_lab.course"] = course
    if allowed:
        import multipole_lab

        multipole_lab.course = course
        return
    library = types.ModuleType("multipole_lab")
    library.__path__ = []  # so that its submodules are asked for, and refused
    library.course = course
    library.__getattr__ = functools.partial(_refuse, "multipole_lab.")
    sys.modules["multipole_lab"] = library
    sys.meta_path.insert(0, _NoLibrary(packages))


class _NoLibrary(importlib.abc.MetaPathFinder):
    """Refuses to import some packages, and says why."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in self.packages:
            _refuse("", name)
        return None


def _refuse(prefix: str, name: str, *args: object, **kwargs: object) -> None:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotAllowed(f"this question does not allow {prefix}{name}")


def _forbid(dotted: str) -> None:
    """Replace a function of torch by one that says it is not allowed."""
    *path, last = dotted.split(".")
    owner = sys.modules.get(path[0])
    for part in path[1:]:
        owner = getattr(owner, part, None)
    if owner is not None and hasattr(owner, last):
        setattr(owner, last, functools.partial(_refuse, "", dotted))


def _forbid_operators(names: list[str]) -> None:
    """Let operators of ATen refuse, whoever calls them: ``torch.ops``, a private name, C++, another thread."""
    library = torch._C._dispatch_library("IMPL", "aten", "", __file__, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is another implementation: it is what must not run
        for name in names:
            library.impl(name, "CPU", functools.partial(_refuse, "", f"torch's {name.strip('_')}"))
    # They refuse as long as the library lives. It does for ever, where no code of the process can find it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
