"""Problems with a chain of reasoning of known length, in a text of any length: quantities that depend on each other.

In the manner of GSM-Infinite (2502.05252), section 3: a graph of named quantities is drawn first and told in sentences
afterwards. The answer needs exactly so many operations. Distracting sentences tell of further quantities, which may
depend on those of the chain, but nothing of the chain depends on them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from multipole_lab.suggesting import suggesting

Operation = Literal["given", "more", "fewer", "times", "sum", "difference"]
LARGEST = 99

ANIMALS = ("owls", "foxes", "hares", "herons", "badgers", "otters", "crows", "deer", "swans", "hedgehogs", "moles",
           "finches", "toads", "geese", "bats", "falcons", "mice", "squirrels", "cranes", "beavers")  # fmt: skip
KINDS = ("grey", "young", "old", "shy", "tame", "wild", "spotted", "white", "brown", "small", "tall", "sleepy",
         "quick", "striped", "lame", "ringed", "hungry", "proud", "quiet", "lost")  # fmt: skip
PLACES = ("Ashwood", "Birchmere", "Cold Hollow", "Dale End", "Elm Ridge", "Fernside", "Glen Marsh", "High Moor",
          "Ivy Bank", "Juniper Hill", "Kingsbrook", "Long Meadow", "Mill Pond", "North Quarry", "Oakhurst", "Pine Gate",
          "Quiet Bay", "Reed Island", "Stony Ford", "Thornfield", "Upper Lake", "Vale Wood",
          "West Dune", "Yew Court")  # fmt: skip


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


@suggesting
def make_problem(
    operations: int, length: int, seed: int, count: Callable[[str], int] = lambda text: len(text.split())
) -> Problem:
    """Draw a problem.

    Parameters
    ----------
    operations : that the answer needs, at least 1.
    length : of text, question and solution together, at most, as ``count`` counts it; distractors fill it up.
    seed : the same arguments give the same problem.
    count : the length of a text; words by default.

    Raises
    ------
    ValueError : no operations, or a chain that alone is longer than ``length`` or than there are names.
    """
    if operations < 1:
        raise ValueError(f"operations is {operations}; at least 1 is needed")
    rng = random.Random(f"{seed} {operations} {length}")
    names = (f"{kind} {animal} in {place}" for kind, animal, place in _shuffled(rng))
    chain = _chain(operations, names, rng)
    alone = Problem(tuple(chain), (), ())
    free = (
        length
        - count(alone.question)
        - count(alone.solution)
        - sum(count(f" {one.sentence}") for one in chain)
    )
    if free < 0:
        raise ValueError(f"length is {length}; {operations} operations need at least {length - free}")
    distractors: list[Quantity] = []
    while True:
        name = next(names, None)
        if name is None:
            raise ValueError(
                f"length is {length}; there are names for {len(chain) + len(distractors)} sentences only"
            )
        # Parents among the last few of all, so that chains of distractors are as deep as the true one.
        further = _quantity(name, [*chain, *distractors[-2 * len(chain) :]], rng, rng.random() < 0.4)
        free -= count(f" {further.sentence}")
        if free < 0:
            break
        distractors.append(further)
    order = list(range(len(chain) + len(distractors)))
    rng.shuffle(order)
    return Problem(tuple(chain), tuple(distractors), tuple(order))


def _shuffled(rng: random.Random):
    """All names, in a random order."""
    every = range(len(KINDS) * len(ANIMALS) * len(PLACES))
    for i in rng.sample(every, len(every)):
        rest, kind = divmod(i, len(KINDS))
        place, animal = divmod(rest, len(ANIMALS))
        yield KINDS[kind], ANIMALS[animal], PLACES[place]


def _chain(operations: int, names, rng: random.Random) -> list[Quantity]:
    """Quantities such that the last one needs all the others: each operation takes the result of the one before."""
    chain = [_quantity(next(names), [], rng, True)]
    for _ in range(operations):
        previous, others = chain[-1], chain[:-1]
        if rng.random() < 0.4:  # two parents: the result before, and another one or a new given number
            other = rng.choice(others) if others and rng.random() < 0.5 else None
            if other is None:
                other = _quantity(next(names), [], rng, True)
                chain.insert(-1, other)
            both = _of_two(next(names), previous, other, rng)
            if both is not None:
                chain.append(both)
                continue
            if other is chain[-2] and other not in others:
                chain.remove(other)
        chain.append(_of_one(next(names), previous, rng))
    return chain


def _quantity(name: str, parents: list[Quantity], rng: random.Random, given: bool) -> Quantity:
    if given or not parents:
        value = rng.randint(2, 20)
        return Quantity(name, "given", value, (), value)
    if rng.random() < 0.4 and len(parents) > 1:
        both = _of_two(name, *rng.sample(parents, 2), rng)
        if both is not None:
            return both
    return _of_one(name, rng.choice(parents), rng)


def _of_one(name: str, parent: Quantity, rng: random.Random) -> Quantity:
    """More, fewer or several times; whatever keeps the value from 1 to 99."""
    found = []
    for operation, amounts in (("more", range(2, 13)), ("fewer", range(2, 13)), ("times", range(2, 5))):
        fitting = [a for a in amounts if 1 <= compute(operation, a, [parent.value]) <= LARGEST]
        if fitting:
            found.append((operation, rng.choice(fitting)))
    operation, amount = rng.choice(found)
    return Quantity(name, operation, amount, (parent.name,), compute(operation, amount, [parent.value]))


def _of_two(name: str, one: Quantity, two: Quantity, rng: random.Random) -> Quantity | None:
    """A sum or a difference, None where neither is from 1 to 99."""
    if one.value < two.value:
        one, two = two, one
    fitting = [o for o in ("sum", "difference") if 1 <= compute(o, 0, [one.value, two.value]) <= LARGEST]
    if not fitting:
        return None
    operation = rng.choice(fitting)
    return Quantity(name, operation, 0, (one.name, two.name), compute(operation, 0, [one.value, two.value]))
