"""`check`: try a student's function on several inputs and name the likely mistake."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.course.questions.compare import Wrong, same
from multipole_lab.course.questions.question import Question, Random, find

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Diagnosis:
    """What `check` found; prints itself, and is true where all went well.

    Attributes
    ----------
    question : "A1.2".
    tried : how many inputs were tried.
    failed : one line for each kind of input that failed.
    hints : questions that point at the likely mistake.
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
    asked = find(question)
    if not callable(function):
        raise TypeError(f"function is {function!r}; give your function itself, without brackets")
    cases = [case for seed in SEEDS for case in asked.cases(Random(seed))]
    failed: dict[str, str] = {}
    answers = []
    for label, args in cases:
        answer, problem = _try(asked, function, args)
        answers.append(answer)
        if problem and label not in failed:
            failed[label] = f"{label}: {problem}"
    hints = _hints(asked, cases, answers) if failed else ()
    if failed and not hints and asked.hint:
        hints = (asked.hint,)
    return Diagnosis(question, len(cases), tuple(failed.values()), tuple(hints))


def _try(asked: Question, function: Callable, args: tuple) -> tuple[object, str | None]:
    """The answer to one input (None where there is none) and what is wrong with it."""
    given = copy.deepcopy(args)
    try:
        answer = function(*given)
    except NotImplementedError:
        raise
    except Exception as error:
        return None, _raised(error)
    try:
        same(answer, asked.oracle(*args), asked.tol)
        same(given, args, 0.0, "the input, which your function has changed,")
    except Wrong as error:
        return answer, str(error)
    return answer, None


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


def _hints(asked: Question, cases: list[tuple[str, tuple]], answers: list[object]) -> list[str]:
    """The known mistakes that give exactly these answers to every input."""
    return [
        hint
        for hint, mistake in asked.mistakes.items()
        if any(answer is not None for answer in answers)
        and all(
            _matches(mistake, args, answer, asked.tol)
            for (_, args), answer in zip(cases, answers, strict=True)
        )
    ]


def _matches(mistake: Callable, args: tuple, answer: object, tol: float) -> bool:
    if answer is None:
        return True  # it raised; the other inputs decide
    try:
        wrong = mistake(*copy.deepcopy(args))
        same(_without_nan(answer), _without_nan(wrong), max(tol, 1e-3))
    except Exception:
        return False
    return True


def _without_nan(value: object) -> object:
    """NaN and infinities as one recognisable number: where they stand belongs to the picture of a mistake."""
    if isinstance(value, tuple | list):
        return tuple(map(_without_nan, value))
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.where(value.isfinite(), value, torch.full_like(value, -777.0))
    return value
