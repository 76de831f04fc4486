"""Eight tasks of needles: one or several of key and value, in noise, in a text, or among needles only."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from multipole_lab.evaluation.ruler.puzzle import Make, Puzzle, essay, identifiers, numbers, strewn, words

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
Values = Callable[[random.Random, int], list[str]]


def needles(
    size: int,
    rng: random.Random,
    sentences: Sequence[str],
    *,
    hay: str = "essay",
    key: Values = words,
    value: Values = numbers,
    others: int = 0,
    values: int = 1,
    asked: int = 1,
) -> Puzzle:
    """Facts "one of the special magic numbers for KEY is VALUE"; the values of some keys are asked for.

    Parameters
    ----------
    size : pieces of the haystack, of a kind that ``hay`` says: "noise", "essay", or "needles" of other keys.
    others : keys besides those that are asked for. values : of each key. asked : keys that are asked for.
    """
    kind = "numbers" if value is numbers else "uuids"
    count = asked + others + (size if hay == "needles" else 0)
    keys = key(rng, count)
    given = value(rng, count * values)
    held = {name: given[i * values : (i + 1) * values] for i, name in enumerate(keys)}
    facts = [
        f"One of the special magic {kind} for {name} is: {one}. " for name, own in held.items() for one in own
    ]
    pieces = {"noise": [NOISE] * size, "essay": essay(sentences, size), "needles": []}[hay]
    wanted = keys[:asked]
    named = wanted[0] if asked == 1 else f"{', '.join(wanted[:-1])}, and {wanted[-1]}"
    many = asked * values > 1
    shown, verb = (kind, "are") if many else (kind[:-1], "is")
    context = (
        f"Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you "
        f"about the {kind} afterwards.\n{strewn(pieces, facts, rng)}\n"
    )
    question = (
        f"What {verb} {'all ' if many else ''}the special magic {shown} for {named} mentioned in the provided text? "
        f"The special magic {shown} for {named} mentioned in the provided text {verb}"
    )
    return Puzzle(context, question, tuple(one for name in wanted for one in held[name]))


NEEDLES: dict[str, Make] = {
    "niah_single_1": partial(needles, hay="noise"),
    "niah_single_2": needles,
    "niah_single_3": partial(needles, value=identifiers),
    "niah_multikey_1": partial(needles, others=3),
    "niah_multikey_2": partial(needles, hay="needles"),
    "niah_multikey_3": partial(needles, hay="needles", key=identifiers, value=identifiers),
    "niah_multivalue": partial(needles, values=4),
    "niah_multiquery": partial(needles, asked=4),
}
