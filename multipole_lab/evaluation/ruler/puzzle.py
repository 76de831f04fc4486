"""What a task of RULER asks: a context, a question, the answers; and how large a context may be."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Made of a task's size, some measure of its haystack; the same numbers give the same puzzle.
Make = Callable[[int, random.Random, Sequence[str]], "Puzzle"]
LARGEST = 1 << 20

FIRST = ("amber", "brisk", "calm", "dusty", "eager", "faint", "gentle", "hollow", "ivory", "jolly", "keen", "lively",
         "misty", "narrow", "olive", "pale", "quiet", "rusty", "silent", "tidy", "upper", "velvet", "windy",
         "young")  # fmt: skip
SECOND = ("anchor", "basket", "candle", "drawer", "engine", "feather", "garden", "hammer", "island", "jacket",
          "kettle", "ladder", "mirror", "needle", "orchard", "pillow", "quarry", "ribbon", "saddle", "timber",
          "umbrella", "valley", "window", "yard")  # fmt: skip


@dataclass(frozen=True)
class Puzzle:
    """One text to read.

    Attributes
    ----------
    context, question : the prompt is the two of them; the question ends where the answer begins.
    answers : what the continuation should contain.
    """

    context: str
    question: str
    answers: tuple[str, ...]

    def score(self, text: str) -> float:
        """The share of the answers that stand in a continuation, in capitals or not."""
        return sum(answer.lower() in text.lower() for answer in self.answers) / len(self.answers)


def fitting(
    make: Make, seed: str, sentences: Sequence[str], tokens: int, count: Callable[[str], int]
) -> tuple[Puzzle, int]:
    """The largest puzzle of at most ``tokens`` tokens, and how many it has.

    Raises
    ------
    ValueError : the smallest has more.
    """

    def made(size: int) -> tuple[Puzzle, int]:
        puzzle = make(size, random.Random(seed), sentences)
        return puzzle, count(puzzle.context + puzzle.question)

    best = made(0)
    if best[1] > tokens:
        raise ValueError(f"{tokens} tokens are too few for this task, which takes {best[1]}")
    low, high = 0, 1
    while high < LARGEST and (found := made(high))[1] <= tokens:
        low, high, best = high, 2 * high, found
    while high - low > 1:
        middle = (low + high) // 2
        found = made(middle)
        if found[1] <= tokens:
            low, best = middle, found
        else:
            high = middle
    return best


def words(rng: random.Random, n: int) -> list[str]:
    """Different names of two words, such as ``calm-anchor``; where there are many, also ``calm2-anchor``."""
    pairs = len(FIRST) * len(SECOND)
    places = rng.sample(range(pairs * (1 + 2 * n // pairs)), n)
    names = ((i // pairs, *divmod(i % pairs, len(SECOND))) for i in places)
    return [f"{FIRST[first]}{again or ''}-{SECOND[second]}" for again, first, second in names]


def numbers(rng: random.Random, n: int) -> list[str]:
    """Different numbers of seven digits."""
    return [str(x) for x in rng.sample(range(1_000_000, 10_000_000), n)]


def identifiers(rng: random.Random, n: int) -> list[str]:
    """UUIDs."""
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(n)]


def essay(sentences: Sequence[str], size: int) -> list[str]:
    """The first sentences of a text, which begins again where it ends."""
    return [sentences[i % len(sentences)] for i in range(size)]


def strewn(hay: list[str], facts: Sequence[str], rng: random.Random) -> str:
    """Facts at random places between the pieces of a haystack, in any order."""
    spots = sorted(((rng.randint(0, len(hay)), rng.random(), fact) for fact in facts), reverse=True)
    for spot, _, fact in spots:
        hay.insert(spot, fact)
    return "".join(hay)
