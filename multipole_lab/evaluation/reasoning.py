"""Problems with a chain of reasoning of known length, in a text of any length: quantities that depend on each other.

In the manner of GSM-Infinite (2502.05252), section 3: a graph of named quantities is drawn first and written in
sentences afterwards. The answer needs a known number of operations. Distracting sentences are about further
quantities, which may depend on those of the chain, but nothing of the chain depends on them.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from multipole_lab.evaluation.quantities import Problem, Quantity, compute
from multipole_lab.suggesting import suggesting

LARGEST = 99

ANIMALS = ("owls", "foxes", "hares", "herons", "badgers", "otters", "crows", "deer", "swans", "hedgehogs", "moles",
           "finches", "toads", "geese", "bats", "falcons", "mice", "squirrels", "cranes", "beavers")  # fmt: skip
KINDS = ("grey", "young", "old", "shy", "tame", "wild", "spotted", "white", "brown", "small", "tall", "sleepy",
         "quick", "striped", "lame", "ringed", "hungry", "proud", "quiet", "lost")  # fmt: skip
PLACES = ("Ashwood", "Birchmere", "Cold Hollow", "Dale End", "Elm Ridge", "Fernside", "Glen Marsh", "High Moor",
          "Ivy Bank", "Juniper Hill", "Kingsbrook", "Long Meadow", "Mill Pond", "North Quarry", "Oakhurst", "Pine Gate",
          "Quiet Bay", "Reed Island", "Stony Ford", "Thornfield", "Upper Lake", "Vale Wood",
          "West Dune", "Yew Court")  # fmt: skip


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
