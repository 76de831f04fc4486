"""What is known about a question: inputs to try, the right answer, and the usual wrong ones.

The right answer is computed the long way round (loops in float64, automatic differentiation, functions that the
question forbids), so that reading it gives away next to no answer that would be accepted. A mistake is by its nature
one step from a right answer: who reads `mistakes` with understanding has done the assignment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from multipole_lab.course.questions import own
from multipole_lab.course.questions.forbidden import GROUPS

Args = tuple


@dataclass(frozen=True)
class Question:
    """One graded question.

    Attributes
    ----------
    cases : from a seeded random number source to [(what is special, arguments)], ragged and extreme ones included.
    oracle : the right answer to the same arguments.
    mistakes : {a sentence that points at the mistake: the answer of somebody who makes it, or several such answers}.
    tol : largest difference over the largest number.
    hint : what to read again, where no known mistake fits.
    special : {what is special about an input, or about several: what it means where no other is answered wrongly}.
    parts : what the parts of the result are called, where it has several.
    uses : {a function of an earlier question that this one may call: that question}.
    forbidden : groups of ready-made functions that it may not use (see `forbidden`), as in its master.
    library : whether it may call multipole_lab, as in its master.

    Raises
    ------
    ValueError : unknown groups.
    """

    cases: Callable[[Random], list[tuple[str, Args]]]
    oracle: Callable
    mistakes: dict[str, Callable | tuple[Callable, ...]] = field(default_factory=dict, repr=False)
    tol: float = 1e-4
    hint: str = ""
    special: dict[str | tuple[str, ...], str] = field(default_factory=dict, repr=False)
    parts: tuple[str, ...] = ()
    uses: dict[str, str] = field(default_factory=dict, repr=False)
    forbidden: tuple[str, ...] = ()
    library: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.forbidden, str) or not set(self.forbidden) <= set(GROUPS):
            raise ValueError(f"forbidden is {self.forbidden!r}; a tuple of {', '.join(GROUPS)} is allowed")


class Random:
    """Seeded random numbers: ``random(3, 4)`` is a normal [3, 4] float32 tensor."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers in low .. high - 1."""
        return torch.randint(low, high, shape, generator=self.generator)

    def permutation(self, n: int) -> Tensor:
        """0 .. n - 1 in random order."""
        return torch.randperm(n, generator=self.generator)


ASSIGNMENTS = ("A1", "A2", "A3", "A4", "A5")


def find(name: str) -> Question:
    """The question of that name, such as "A1.2".

    Raises
    ------
    ValueError : no such question; the message lists those of the assignment.
    """
    assignment = str(name).split(".")[0]
    if assignment in ASSIGNMENTS:
        questions = importlib.import_module(f"multipole_lab.course.questions.{assignment.lower()}").QUESTIONS
    else:
        questions = own.questions_of(assignment)
    if questions is None and "." in str(name) and own.NAME.fullmatch(assignment):
        path = own.path_of(assignment, Path.cwd())
        raise ValueError(
            f"question is {name!r}; there is no {path.name} in {path.parent}: put the file with the questions of "
            f"{assignment} beside the notebook ({', '.join(ASSIGNMENTS)} need none)"
        )
    if questions is None:
        raise ValueError(
            f"question is {name!r}; a name such as 'A1.2' is needed, of {', '.join(ASSIGNMENTS)} or of an assignment "
            "whose questions are in a file beside the notebook (A6.1: a6.py)"
        )
    if name not in questions:
        raise ValueError(f"question is {name!r}; {assignment} has {', '.join(questions)}")
    return questions[name]


def oracle(name: str) -> Callable:
    """What computes the right answer to a question, for the hidden tests."""
    return find(name).oracle
