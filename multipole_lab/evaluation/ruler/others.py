"""Five tasks besides needles: variables that copy each other, words that are common, and questions on documents."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from multipole_lab.evaluation.ruler.needles import NOISE
from multipole_lab.evaluation.ruler.puzzle import Make, Puzzle, numbers, strewn, words

HOPS, COMMON, FREQUENT, TAIL = 4, 10, 3, 2.0
PLACES = ("Ashford", "Brindle", "Calloway", "Dunmere", "Elsworth", "Farrow", "Grantham", "Holloway")
TRADES = ("harbour master", "librarian", "clockmaker", "head gardener", "ferry captain", "bell founder")


def variables(size: int, rng: random.Random, sentences: Sequence[str]) -> Puzzle:
    """VAR B = VAR A, four hops from a number: which variables have its value?"""
    names = ["".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5)) for _ in range(HOPS + 1)]
    value = str(rng.randrange(10_000, 100_000))
    steps = [
        f"VAR {names[0]} = {value}. ",
        *(f"VAR {b} = VAR {a}. " for a, b in itertools.pairwise(names)),
    ]
    hay = [NOISE] * size
    places = sorted(rng.randint(0, size) for _ in steps)
    for place, step in reversed(list(zip(places, steps, strict=True))):  # in their order, from the back
        hay.insert(place, step)
    text = "".join(hay)
    context = (
        f"Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{text}\n"
    )
    question = (
        f"Question: Find all variables that are assigned the value {value} in the text above. Answer: According to the "
        f"chain(s) of variable assignment in the text above, {len(names)} variables are assigned the value {value}, "
        "they are:"
    )
    return Puzzle(context, question, tuple(names))


def common_words(size: int, rng: random.Random, sentences: Sequence[str]) -> Puzzle:
    """Ten words stand thirty times each in a list, all others three times; fewer times where the list is short."""
    often = min(30, 4 + size)
    listed = words(rng, COMMON + size)
    answers = tuple(listed[:COMMON])
    listed = [word for i, word in enumerate(listed) for _ in range(often if i < COMMON else often // 10 or 1)]
    rng.shuffle(listed)
    shown = " ".join(f"{i}. {word}" for i, word in enumerate(listed, 1))
    context = (
        f"Below is a numbered list of words. In these words, some appear more often than others.\n{shown}\n"
    )
    question = (
        "Question: What are the 10 most common words in the above list? Answer: The top 10 words that appear most "
        "often in the list are:"
    )
    return Puzzle(context, question, answers)


def frequent_words(size: int, rng: random.Random, sentences: Sequence[str]) -> Puzzle:
    """Words of a code, the k-th most frequent one 1 / k^2 as often as the first: the first three."""
    first = 12 + size
    code = list(dict.fromkeys("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(60)))
    listed = [word for k, word in enumerate(code, 1) for _ in range(max(1, round(first / k**TAIL)))]
    rng.shuffle(listed)
    context = (
        f"Read the following coded text and track the frequency of each coded word.\n{' '.join(listed)}\n"
    )
    question = (
        "Question: What are the three most frequently appeared words in the above coded text? Answer: The three most "
        "frequent words are:"
    )
    return Puzzle(context, question, tuple(code[:FREQUENT]))


def questions(size: int, rng: random.Random, sentences: Sequence[str], hops: int = 1) -> Puzzle:
    """A question on one of many short documents, or on two of them that lead to each other."""
    people = words(rng, 2 + size)
    codes = numbers(rng, len(people))
    about = [
        f"Document: {person.title()} of {rng.choice(PLACES)}, {rng.choice(TRADES)}, was given the medal {code}.\n"
        for person, code in zip(people, codes, strict=True)
    ]
    asked, friend = people[0].title(), people[1].title()
    lead = f"Document: {asked} learned the trade from {friend}.\n" if hops == 2 else ""
    rest = [about[0], *about[2:]]
    context = (
        "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n"
        f"The following are given documents.\n{strewn(rest, [about[1], lead], rng)}"
    )
    who = f"the person from whom {asked} learned the trade" if hops == 2 else asked
    question = f"Question: Which medal was given to {who}? Answer: The medal"
    return Puzzle(context, question, (codes[hops - 1],))


def two_hops(size: int, rng: random.Random, sentences: Sequence[str]) -> Puzzle:
    """``questions`` on two documents."""
    return questions(size, rng, sentences, 2)


OTHERS: dict[str, Make] = {
    "vt": variables, "cwe": common_words, "fwe": frequent_words, "qa_1": questions, "qa_2": two_hops,
}  # fmt: skip
