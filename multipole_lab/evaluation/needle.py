"""`multipole-lab eval needle`: one sentence hidden in a long text, asked for at the end.

The needle says a number of something; other sentences of the same form, at random places, say other numbers of other
things. Options are the right number, the numbers of those decoys and numbers that stand nowhere. All have four digits.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from multipole_lab.evaluation.engine import Evaluation, Item
from multipole_lab.evaluation.options import choice_table, score_options
from multipole_lab.evaluation.texts import READING, TOPICS, read_text, token_ids

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from multipole_lab.evaluation.reader import Reader

READING_HELP = (
    "A sentence with a four-digit number (the needle) stands in a long text; at the end the model is asked for the "
    "number and picks the likeliest of several: the right one, those of decoy sentences about other things, and some "
    "that stand nowhere. 'as dense' is how often the choice is that of dense attention, KL the divergence from its "
    "distribution over the options, p(right) the mean probability of the right one."
)
THINGS = ("gate", "safe", "lantern room", "archive", "observatory", "boathouse", "greenhouse", "vault", "bell tower",
          "workshop", "cellar", "library")  # fmt: skip
PLACES = ("Ashford", "Brindle", "Calloway", "Dunmere", "Elsworth", "Farrow", "Grantham", "Holloway", "Ivybridge",
          "Kestrel Bay", "Lindale", "Marlow")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval needle`` besides those of every evaluation."""
    add = parser.add_argument
    add("--text", default=TOPICS, metavar="TEXT", help=f"the haystack: a text file in UTF-8, {READING!r} "
        f"(the lab's story) or {TOPICS!r} (Python's documentation); default: {TOPICS!r}")  # fmt: skip
    add("--lengths", type=int, nargs="+", metavar="N", help="tokens; default: a quarter, a half and all of "
        "--max-tokens")  # fmt: skip
    add("--depths", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1], metavar="X",
        help="places of the needle, from 0 (beginning) to 1 (end); default: 0 0.25 0.5 0.75 1")  # fmt: skip
    add("--trials", type=int, default=1, metavar="N", help="needles for each place and length; default: 1")
    add("--options", type=int, default=8, metavar="N", help="numbers to choose from; default: 8")
    add("--decoys", type=int, default=3, metavar="N", help="options that stand in the text; default: 3")


def prepare(args: argparse.Namespace, model: object, tokenizer: Callable) -> Evaluation:
    """Every trial, length and depth.

    Raises
    ------
    ValueError : a text that cannot be read or is shorter than the longest haystack; values out of range.
    """
    lengths = args.lengths or [args.max_tokens // 4, args.max_tokens // 2, args.max_tokens]
    _check(args, lengths)
    text = read_text(args.text)
    pieces = sentences(text, tokenizer, max(lengths) + 200)
    have = sum(tokens for _, tokens in pieces)
    if have < max(lengths):
        raise ValueError(
            f"{args.text} has about {have:,} tokens, fewer than {max(lengths):,}; give shorter --lengths"
        )
    hide(
        pieces, tokenizer, min(lengths), 0, args.options, args.decoys, random.Random(0)
    )  # refuses now what is too short
    items = [
        Item(f"{n}:{d:g}:{t}", {"length": n, "depth": d, "trial": t})
        for t in range(args.trials)
        for n in lengths
        for d in args.depths
    ]

    def score(item: Item, reader: Reader) -> dict:
        rng = random.Random(f"{args.seed} {item.id}")
        puzzle = hide(
            pieces, tokenizer, item.facts["length"], item.facts["depth"], args.options, args.decoys, rng
        )
        return score_options(reader, tokenizer, *puzzle)

    return Evaluation(
        name="needle",
        title="Needle in a haystack",
        reading=READING_HELP,
        settings={
            "text": {args.text: hashlib.sha256(text.encode()).hexdigest()},
            "options": args.options,
            "decoys": args.decoys,
        },
        items=items,
        score=score,
        table=lambda rows, methods: choice_table(rows, methods, ["length", "depth"]),
        figures=figures,
    )


def _check(args: argparse.Namespace, lengths: Sequence[int]) -> None:
    if max(lengths) > args.max_tokens:
        raise ValueError(f"--lengths has {max(lengths)}, more than --max-tokens {args.max_tokens}")
    if not all(0 <= depth <= 1 for depth in args.depths):
        raise ValueError(f"--depths is {args.depths}; numbers from 0 to 1 are needed")
    if args.trials < 1:
        raise ValueError(f"--trials is {args.trials}; at least 1 is needed")
    if args.options < 2:
        raise ValueError(f"--options is {args.options}; at least 2 is needed")
    if not 0 <= args.decoys <= min(args.options - 1, len(THINGS) - 1):
        raise ValueError(
            f"--decoys is {args.decoys}; from 0 to {min(args.options - 1, len(THINGS) - 1)} is allowed"
        )


def sentences(text: str, tokenizer: Callable, tokens: int) -> list[tuple[str, int]]:
    """The first sentences of a text, each with its number of tokens, until there are at least ``tokens``."""
    found, total = [], 0
    for match in re.finditer(r".+?(?:[.!?][\"')\]]*\s+|\n\s*\n|\Z)", text, re.DOTALL):
        if total >= tokens:
            break
        count = len(token_ids(tokenizer, match[0], special=False))
        found.append((match[0], count))
        total += count
    return found


def hide(
    pieces: Sequence[tuple[str, int]],
    tokenizer: Callable,
    length: int,
    depth: float,
    options: int,
    decoys: int,
    rng: random.Random,
) -> tuple[str, str, list[str], int]:
    """Context, question, options and the place of the right one; about ``length`` tokens in all."""
    things = rng.sample(THINGS, decoys + 1)
    places = rng.sample(PLACES, decoys + 1)
    numbers = rng.sample(range(1000, 10_000), options)
    facts = [
        f"The access number of the {thing} in {place} is {number}. "
        for thing, place, number in zip(things, places, numbers, strict=False)
    ]
    question = (
        f"\n\nQuestion: What is the access number of the {things[0]} in {places[0]}?\n"
        f"Answer: The access number of the {things[0]} in {places[0]} is"
    )
    spent = sum(len(token_ids(tokenizer, one, special=False)) for one in [*facts, question]) + 8
    if spent > length:
        raise ValueError(
            f"a haystack of {length} tokens is too short for needle and question, which take {spent}"
        )
    hay, total = [], spent
    for piece, tokens in pieces:
        if total + tokens > length:
            break
        hay.append(piece)
        total += tokens
    # From the back, so that a place counted in the haystack alone stays where it is.
    spots = [(round(depth * len(hay)), facts[0]), *((rng.randint(0, len(hay)), fact) for fact in facts[1:])]
    for spot, fact in sorted(spots, key=lambda one: -one[0]):
        hay.insert(spot, fact)
    order = rng.sample(range(options), options)
    shown = [f" {numbers[i]}." for i in order]
    return "".join(hay), question, shown, order.index(0)


def figures(rows: pandas.DataFrame, methods: list[str]) -> list[go.Figure]:
    """The share of needles found by depth and length, one map a method."""
    from multipole_lab.evaluation.figures import needle_grid

    lengths, depths = sorted(rows["length"].unique()), sorted(rows["depth"].unique())
    found = {
        m: rows[rows["method"] == m].pivot_table(index="depth", columns="length", values="right")
        .reindex(index=depths, columns=lengths).to_numpy(float)
        for m in methods
    }  # fmt: skip
    return [needle_grid(lengths, depths, found, 1 / rows.attrs["settings"]["options"])]
