"""What to say of wrong answers: which known mistake gives them, what is wrong in their form, where they are wrong."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.course.questions.question import Question

UNKNOWN = object()  # in the answer of a mistake: any value, such as a position that rounding decides
ANY = "compare with a case that you can do by hand: two numbers of everything."


@dataclass(frozen=True)
class Tried:
    """One input that was tried.

    Attributes
    ----------
    label : what is special about it.
    args : the arguments, unchanged.
    right, answer : what the oracle and the student's function returned; ``answer`` is None where it raised.
    problem : what is wrong with the answer, or None.
    raised : whether the function raised.
    """

    label: str
    args: tuple
    right: object
    answer: object
    problem: str | None = None
    raised: bool = False


def hints(asked: Question, tried: list[Tried]) -> tuple[str, ...]:
    """Sentences for the answers to several inputs, the best that are known; never none where something is wrong.

    A mistake is named when it gives the student's answer to every input to which its own answer is wrong. Those that
    explain everything that is wrong come first; then mistakes of form; then mistakes that explain a part each, and
    what the inputs that are wrong have in common.
    """
    failed = {one.label for one in tried if one.problem}
    if not failed:
        return ()
    answered = [one for one in tried if not one.raised]
    named = {sentence: _applies(asked, ways, tried) for sentence, ways in asked.mistakes.items()}
    found = [sentence for sentence, wholly in named.items() if wholly]
    found = found or _by_form(asked, answered) or [said for said, wholly in named.items() if wholly is False]
    if not found:
        found = [said for labels, said in asked.special.items() if failed <= {labels, *labels}][:1]
    problems = [one.problem for one in tried if one.problem]
    if any(_CHANGED in problem for problem in problems):
        found = [_COPY, *found]
    return tuple(found or _by_message(problems) or [asked.hint or ANY])


def _applies(asked: Question, ways: Callable | tuple[Callable, ...], tried: list[Tried]) -> bool | None:
    """True where a mistake explains all that is wrong, False where it explains a part, None where it does not fit."""
    results = {_explains(asked, way, tried) for way in (ways if isinstance(ways, tuple) else (ways,))}
    return True if True in results else False if False in results else None


def _explains(asked: Question, mistake: Callable, tried: list[Tried]) -> bool | None:
    tol = max(asked.tol, 1e-3)
    explained, wholly, in_numbers, elsewhere = False, True, False, False
    for one in tried:
        try:
            wrong = mistake(*one.args)
        except Exception as error:
            if not one.raised or not str(one.problem).startswith(type(error).__name__):
                return None
            explained = in_numbers = True
            continue
        if one.raised:
            continue  # the other inputs decide
        if not alike(wrong, one.right, one.right, asked.tol, kinds=True):
            if not one.problem or not alike(one.answer, wrong, one.right, tol):
                return None
            explained, in_numbers = True, in_numbers or _finite(wrong)
        elif one.problem:
            wholly, elsewhere = False, elsewhere or not _finite(one.answer)
    # NaN looks the same whatever it comes from: where it comes up elsewhere, too, it says nothing of this mistake.
    return None if not explained or (elsewhere and not in_numbers) else wholly


def _finite(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return not isinstance(value, Tensor | float) or bool(torch.as_tensor(value).isfinite().all())


def alike(one: object, other: object, right: object, tol: float, kinds: bool = False) -> bool:
    """Whether two answers are equal to ``tol`` times the largest number in ``other`` or in the right answer.

    Rounding is that of the right answer's size, also where a mistake leaves nothing but rounding. NaN and infinities
    have to stand in the same places; which of them depends on the order of operations, unless ``kinds`` count.
    """
    if other is UNKNOWN:
        return True
    if isinstance(other, tuple | list):
        if not isinstance(one, tuple | list) or len(one) != len(other):
            return False
        near = right if isinstance(right, tuple | list) and len(right) == len(other) else [None] * len(other)
        return all(alike(a, b, c, tol, kinds) for a, b, c in zip(one, other, near, strict=True))
    if not isinstance(other, Tensor | numbers.Real):
        return one is None and other is None
    if not isinstance(one, Tensor | numbers.Real) or isinstance(one, Tensor) != isinstance(other, Tensor):
        return isinstance(one, Tensor) and one.numel() == 1 and alike(one.item(), other, right, tol, kinds)
    a, b = (torch.as_tensor(value).detach().double() for value in (one, other))
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
        return False
    if kinds and not torch.equal(a.isnan(), b.isnan()):
        return False
    a, b = a[b.isfinite()], b[b.isfinite()]
    exact = isinstance(other, int) or (isinstance(other, Tensor) and not other.is_floating_point())
    size = max(_largest(b), _largest(right))
    return not a.numel() or bool((a - b).abs().max() <= (0.0 if exact else tol * max(size, 1e-30)))


def _largest(value: object) -> float:
    if not isinstance(value, Tensor | numbers.Real):
        return 0.0
    numbers_ = torch.as_tensor(value).double()
    numbers_ = numbers_[numbers_.isfinite()].abs()
    return float(numbers_.max()) if numbers_.numel() else 0.0


# --- form: what may be wrong with any answer ---------------------------------------------------------


def _leaves(change: Callable) -> Callable:
    """Changes every tensor of a right answer; where that changes nothing it is no mistake."""

    def changed(right: object) -> object:
        return tuple(map(changed, right)) if isinstance(right, tuple) else change(right)

    return changed


def _tensor(change: Callable) -> Callable:
    return _leaves(lambda x: change(x) if isinstance(x, Tensor) and x.is_floating_point() else x)


_FORMS: dict[str, Callable] = {
    "the parts are right and stand in the wrong order: {parts} is asked.": lambda x: (
        tuple(reversed(x)) if isinstance(x, tuple) else x
    ),
    "that is the first part alone: {parts} is asked.": lambda x: x[0] if isinstance(x, tuple) else x,
    "that is the last part alone: {parts} is asked.": lambda x: x[-1] if isinstance(x, tuple) else x,
    "the numbers are right; rows and columns are swapped.": _leaves(
        lambda x: x.T if isinstance(x, Tensor) and x.dim() == 2 else x
    ),
    "the numbers are right; an axis of length one is left over: where does `keepdim` stay on?": _leaves(
        lambda x: x[..., None] if isinstance(x, Tensor) and x.dim() < 2 else x
    ),
    "the numbers are right but for their sign.": _tensor(lambda x: -x),
    "every number is twice what it should be.": _tensor(lambda x: 2 * x),
    "every number is half of what it should be.": _tensor(lambda x: x / 2),
    "the result is full of zeros: is it ever written to?": _tensor(torch.zeros_like),
}


def _by_form(asked: Question, tried: list[Tried]) -> list[str]:
    if tried and all(one.answer is None for one in tried):
        return (
            ["the function returns nothing: does it end with `return`?"] if tried[0].right is not None else []
        )
    parts = f"({', '.join(asked.parts)})" if asked.parts else "another order"
    forms = {said.format(parts=parts): _of_right(change) for said, change in _FORMS.items()}
    if scale := _scale(asked):
        factor = "every number is right but for one factor {}, the scale."
        forms[factor.format("too many")] = _scaled(scale, 1)
        forms[factor.format("too few")] = _scaled(scale, -1)
    by_args = [one for one in tried if one.args]
    return [said for said, form in forms.items() if _explains_form(asked, form, by_args)][:1]


def _of_right(change: Callable) -> Callable:
    return lambda args, right: change(right)


def _scale(asked: Question) -> int | None:
    """Which argument is the scale."""
    names = list(inspect.signature(asked.oracle).parameters)
    return next((i for i, name in enumerate(names) if name in ("scale", "s")), None)


def _scaled(position: int, power: int) -> Callable:
    return lambda args, right: _tensor(lambda x: x * args[position] ** power)(right)


def _explains_form(asked: Question, form: Callable, tried: list[Tried]) -> bool:
    explained = False
    for one in tried:
        wrong = form(one.args, one.right)
        if alike(wrong, one.right, one.right, asked.tol, kinds=True):
            if one.problem:
                return False
        elif not alike(one.answer, wrong, one.right, max(asked.tol, 1e-3)):
            return False
        else:
            explained = True
    return explained


_CHANGED = "which your function has changed"
_COPY = "copy what you are given before you write: `x = x.clone()`, then `x -= ...`."
_MESSAGES = {
    "shapes cannot be multiplied": "a matrix product needs equal inner sizes: is a `.T` missing, or one too many?",
    "must match the size": "two shapes do not fit: a number per row needs `[:, None]` beside a matrix.",
    "same dtype": "float64 meets float32: make new tensors with `dtype` of the inputs.",
    "is not defined": "a name is not known there: run the cells above, and look for a typing mistake.",
    "wrote behind the end": "the last tile sticks out: `tl.store` needs a mask as well.",
    "not subscriptable": "something has one part less than you think: what does the function that you call return?",
    "a tensor is expected": "return a tensor: `torch.tensor(...)` of numbers, `torch.stack(...)` of tensors.",
    "a number is expected": "return a Python number: `float(...)` or `int(...)` of a tensor with one element.",
    "axes swapped": "the shape has its axes in another order: compare with the shape in the question.",
    "argument": "the arguments are those of the question, in its order: the cell must not change them.",
}


def _by_message(problems: list[str]) -> list[str]:
    return [said for piece, said in _MESSAGES.items() if any(piece in problem for problem in problems)][:1]
