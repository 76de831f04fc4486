"""`check`: try a student's function on several inputs and name the likely mistake."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from multipole_lab.course.questions.compare import Wrong, same
from multipole_lab.course.questions.hints import Tried, hints
from multipole_lab.course.questions.question import Question, Random, find
from multipole_lab.course.questions.source import names_in, not_allowed

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Diagnosis:
    """What `check` found; prints itself, and is true where all went well.

    Attributes
    ----------
    question : "A1.2".
    tried : how many inputs were tried.
    failed : one line for each kind of input that failed.
    hints : sentences that point at the likely mistake.
    """

    question: str
    tried: int
    failed: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.failed

    def __repr__(self) -> str:
        if not self.failed:
            return f"{self.question}: right on all {self.tried} inputs tried here. (The grader tries others.)"
        lines = [f"{self.question}: not yet."]
        lines += [f"  - {line}" for line in self.failed]
        lines += [f"  Hint: {hint}" for hint in self.hints]
        return "\n".join(lines)


def check(question: str, function: Callable) -> Diagnosis:
    """Try your function on several seeds and shapes, and name the likely mistake.

    Nothing is sent anywhere, and nothing here tells what the grader will try.

    Parameters
    ----------
    question : such as "A1.2".
    function : yours.

    Returns
    -------
    Diagnosis : prints itself; true where every input gave the right answer.

    Raises
    ------
    NotImplementedError : the function is still the empty one.
    ValueError, TypeError : no such question, or no function.
    """
    found = judge(question, function)
    if name := not_allowed(find(question), function):
        said = f"its text: it uses {name!r}, which this question does not allow: the grader gives no points"
        return replace(found, failed=(*found.failed, said))
    return found


def judge(question: str, function: Callable) -> Diagnosis:
    """The same by the answers alone, whatever the function uses: right answers and known mistakes may use anything.

    Raises
    ------
    NotImplementedError, ValueError, TypeError : as `check`.
    """
    asked = find(question)
    if not callable(function):
        raise TypeError(f"function is {function!r}; give your function itself, without brackets")
    tried = _try_all(question, function)
    said: tuple[str, ...] = ()
    if any(one.problem for one in tried) and (wrong := _wrong_before(asked, function)):
        own = _with_right(asked, function, wrong, lambda: _try_all(question, function))
        before = " and ".join(f"`{name}` (question {asked.uses[name]})" for name in wrong)
        if not any(one.problem for one in own):
            said = (f"this one is right: what is wrong comes from {before}.",)
        else:
            said = (*hints(asked, own), f"{before} is not right yet, either.")
    failed: dict[str, str] = {}
    for one in tried:
        if one.problem:
            failed.setdefault(one.label, f"{one.label}: {one.problem}")
    return Diagnosis(question, len(tried), tuple(failed.values()), said or hints(asked, tried))


def _try_all(question: str, function: Callable) -> list[Tried]:
    return [_try(find(question), function, *case) for case in _cases(question)]


@cache
def _cases(question: str) -> list[tuple[str, tuple, object]]:
    """(what is special, arguments, right answer) for every seed; nobody may change them."""
    asked = find(question)
    cases = [case for seed in SEEDS for case in asked.cases(Random(seed))]
    return [(label, args, asked.oracle(*args)) for label, args in cases]


def _try(asked: Question, function: Callable, label: str, args: tuple, right: object) -> Tried:
    """The answer to one input and what is wrong with it."""
    given = copy.deepcopy(args)
    try:
        answer = function(*given)
    except NotImplementedError:
        raise
    except Exception as error:
        return Tried(label, args, right, None, _raised(error), raised=True)
    names = [f"the input {name}, which your function has changed," for name in _parameters(asked)]
    try:
        same(answer, right, asked.tol, names=asked.parts, tell=True)
        same(given, args, 0.0, names=names)
    except Wrong as error:
        return Tried(label, args, right, answer, str(error))
    return Tried(label, args, right, answer)


def _parameters(asked: Question) -> list[str]:
    return list(inspect.signature(asked.oracle).parameters)


# --- one slip costs once: questions that call the functions of earlier ones ---------------------------


def _wrong_before(asked: Question, function: Callable) -> list[str]:
    """The student's functions of earlier questions that this one may call and that are not right."""
    there = getattr(function, "__globals__", {})
    wrong = []
    code = getattr(function, "__code__", None)
    called = names_in(code) if code else set()
    for name, question in asked.uses.items():
        if name in called and callable(there.get(name)):
            try:
                right = not any(one.problem for one in _try_all(question, there[name]))
            except NotImplementedError:
                right = False
            wrong += [] if right else [name]
    return wrong


def _with_right(asked: Question, function: Callable, names: list[str], do: Callable) -> list[Tried]:
    """The same where the functions of those names give right answers."""
    there, own = function.__globals__, {name: function.__globals__[name] for name in names}
    try:
        there.update({name: _in_single(find(asked.uses[name]).oracle) for name in names})
        return do()
    finally:
        there.update(own)


def _in_single(oracle: Callable) -> Callable:
    """An oracle that answers in the type of what it is given, as a student's function does."""

    def right(*args: object, **kwargs: object) -> object:
        given = [
            x.dtype for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()
        ]
        return _cast(oracle(*args, **kwargs), given[0] if given else torch.float32)

    return right


def _cast(value: object, dtype: torch.dtype) -> object:
    if isinstance(value, tuple):
        return tuple(_cast(one, dtype) for one in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _raised(error: Exception) -> str:
    """The exception, and the line of the student's code it came from."""
    cause = error.__cause__
    if isinstance(cause, NotImplementedError):
        raise cause  # Triton's interpreter wraps what a kernel raises
    error = cause if isinstance(cause, Exception) and type(error).__name__ == "InterpreterError" else error
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    own = [f for f in frames if "multipole_lab" not in f.filename and "site-packages" not in f.filename]
    where = (
        f" (line {own[-1].lineno}: {own[-1].code_context[0].strip()})" if own and own[-1].code_context else ""
    )
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}{where}"
