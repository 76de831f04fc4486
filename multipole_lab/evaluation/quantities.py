"""A graph of named quantities, written in sentences: the text of a problem, its question, its solution, its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Operation = Literal["given", "more", "fewer", "times", "sum", "difference"]


@dataclass(frozen=True)
class Quantity:
    """A node of the graph.

    Attributes
    ----------
    name : "grey owls in Ashwood".
    operation : how it follows from its parents: "given" a number; ``amount`` "more" or "fewer" than the parent,
        ``amount`` "times" the parent; the "sum" or the "difference" of two parents.
    amount : the number in the sentence, 0 where there is none.
    parents : names of the quantities that it depends on.
    value : from 1 to 99.
    """

    name: str
    operation: Operation
    amount: int
    parents: tuple[str, ...]
    value: int

    @property
    def sentence(self) -> str:
        """The quantity as the problem tells it."""
        of = [f"the number of {parent}" for parent in self.parents]
        match self.operation:
            case "given":
                return f"There are {self.amount} {self.name}."
            case "more" | "fewer":
                return f"The number of {self.name} is {self.amount} {self.operation} than {of[0]}."
            case "times":
                return f"The number of {self.name} is {self.amount} times {of[0]}."
            case _:
                return f"The number of {self.name} is the {self.operation} of {of[0]} and {of[1]}."

    def step(self, values: Mapping[str, int]) -> str:
        """The quantity as the solution works it out, up to its value and a full stop."""
        x = [values[parent] for parent in self.parents]
        shown = {
            "given": f"{self.value}",
            "more": f"{x[:1]} + {self.amount} = {self.value}",
            "fewer": f"{x[:1]} - {self.amount} = {self.value}",
            "times": f"{self.amount} * {x[:1]} = {self.value}",
            "sum": " + ".join(map(str, x)) + f" = {self.value}",
            "difference": " - ".join(map(str, x)) + f" = {self.value}",
        }[self.operation]
        return f"The number of {self.name} is {shown.replace('[', '').replace(']', '')}."


@dataclass(frozen=True)
class Problem:
    """A problem with its solution.

    Attributes
    ----------
    chain : the quantities that the answer needs, each after its parents; the last is asked for.
    distractors : quantities that it does not need.
    order : the sentences as the text has them, places in ``chain + distractors``.
    """

    chain: tuple[Quantity, ...]
    distractors: tuple[Quantity, ...]
    order: tuple[int, ...]

    @property
    def operations(self) -> int:
        """Operations that the answer needs; numbers that are given cost none."""
        return sum(quantity.operation != "given" for quantity in self.chain)

    @property
    def answer(self) -> int:
        """The value asked for."""
        return self.chain[-1].value

    @property
    def text(self) -> str:
        """The sentences."""
        every = (*self.chain, *self.distractors)
        return " ".join(every[i].sentence for i in self.order)

    @property
    def question(self) -> str:
        """What is asked."""
        return f"How many {self.chain[-1].name} are there?"

    @property
    def solution(self) -> str:
        """The chain worked out, a sentence a quantity; the last one ends with the answer and a full stop."""
        values = {quantity.name: quantity.value for quantity in self.chain}
        return " ".join(quantity.step(values) for quantity in self.chain)

    def solve(self) -> int:
        """The answer worked out from operations and amounts alone, to check the generator."""
        values: dict[str, int] = {}
        for quantity in self.chain:
            x = [values[parent] for parent in quantity.parents]
            values[quantity.name] = compute(quantity.operation, quantity.amount, x)
        return values[self.chain[-1].name]


def compute(operation: Operation, amount: int, parents: list[int]) -> int:
    """The value of a quantity."""
    match operation:
        case "given":
            return amount
        case "more":
            return parents[0] + amount
        case "fewer":
            return parents[0] - amount
        case "times":
            return parents[0] * amount
        case "sum":
            return parents[0] + parents[1]
        case "difference":
            return parents[0] - parents[1]
    raise ValueError(f"operation is {operation!r}")
