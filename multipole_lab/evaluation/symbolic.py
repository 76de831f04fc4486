"""`multipole-lab eval symbolic`: long reasoning over quantities that depend on each other, among distracting ones."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from multipole_lab.evaluation.engine import Evaluation, Item
from multipole_lab.evaluation.options import accuracies, choice_table, score_options
from multipole_lab.evaluation.reasoning import Problem, make_problem
from multipole_lab.evaluation.texts import token_ids

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from multipole_lab.evaluation.reader import Reader

OPTIONS = 4
AROUND = "\n\nQuestion: \nAnswer: The number of quick hedgehogs in Juniper Hill is"
READING_HELP = (
    "Problems of arithmetic in words, in the manner of GSM-Infinite: the answer needs a known number of "
    "operations, and the sentences that matter stand among others. The model picks the likeliest of four "
    "numbers. 'direct' asks for the answer at once; 'worked' has the model read the solution up to its last "
    "number, which it has to give. 'as dense' is how often the choice is that of dense attention, KL the "
    "divergence from its distribution over the options, p(right) the mean probability of the right one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``eval symbolic`` besides those of every evaluation."""
    add = parser.add_argument
    add("--operations", type=int, nargs="+", default=[2, 4, 8], metavar="N", help="default: 2 4 8")
    add("--lengths", type=int, nargs="+", metavar="N", help="tokens of the problem; default: half of "
        "--max-tokens and all")  # fmt: skip
    add(
        "--problems",
        type=int,
        default=4,
        metavar="N",
        help="for each length and number of operations; default: 4",
    )
    add("--ask", choices=["direct", "worked"], nargs="+", default=["direct", "worked"],
        help="for the answer, or for the last number of the solution; default: both")  # fmt: skip


def prepare(args: argparse.Namespace, model: object, tokenizer: Callable) -> Evaluation:
    """Every problem.

    Raises
    ------
    ValueError : values out of range; a length too short for the operations.
    """
    lengths = args.lengths or [args.max_tokens // 2, args.max_tokens]
    if max(lengths) > args.max_tokens:
        raise ValueError(f"--lengths has {max(lengths)}, more than --max-tokens {args.max_tokens}")
    if args.problems < 1:
        raise ValueError(f"--problems is {args.problems}; at least 1 is needed")

    def count(text: str) -> int:
        return len(token_ids(tokenizer, text, special=False))

    items = [
        Item(
            f"{operations}:{length}:{ask}:{n}",
            {"operations": operations, "length": length, "ask": ask, "problem": n},
        )
        for n in range(args.problems)
        for length in lengths
        for operations in args.operations
        for ask in args.ask
    ]

    def score(item: Item, reader: Reader) -> dict:
        facts = item.facts
        return score_options(
            reader, tokenizer, *ask_about(item_problem(facts, args.seed, count), facts["ask"], args.seed)
        )

    for length in lengths:  # a length that cannot hold the problem is refused before any work
        for operations in args.operations:
            item_problem({"operations": operations, "length": length, "problem": 0}, args.seed, count)
    return Evaluation(
        name="symbolic",
        title="Symbolic reasoning in a long context",
        reading=READING_HELP,
        settings={"options": OPTIONS},
        items=items,
        score=score,
        table=lambda rows, methods: choice_table(rows, methods, ["ask", "operations", "length"]),
        figures=figures,
    )


def item_problem(facts: dict, seed: int, count: Callable[[str], int]) -> Problem:
    """The problem of an item; the words around question and answer have their share of the length."""
    length = facts["length"] - count(AROUND) - 8
    return make_problem(facts["operations"], length, seed * 1_000_003 + facts["problem"], count)


def ask_about(problem: Problem, ask: str, seed: int) -> tuple[str, str, list[str], int]:
    """Context, question, options, and the place of the right one."""
    question = f"\n\nQuestion: {problem.question}\n"
    if ask == "worked":
        question += "Solution: " + problem.solution.removesuffix(f" {problem.answer}.")
    else:
        question += f"Answer: The number of {problem.chain[-1].name} is"
    rng = random.Random(f"{seed} {problem.answer} {problem.question}")
    options = [problem.answer, *_others(problem, rng)]
    order = rng.sample(range(len(options)), len(options))
    return problem.text, question, [f" {options[i]}." for i in order], order.index(0)


def _others(problem: Problem, rng: random.Random) -> list[int]:
    """Wrong numbers with as many digits: values of other quantities first, then any."""
    low, high = (1, 9) if problem.answer < 10 else (10, 99)
    every = {quantity.value for quantity in (*problem.chain, *problem.distractors)}
    stated = sorted(value for value in every - {problem.answer} if low <= value <= high)
    rest = sorted(set(range(low, high + 1)) - every - {problem.answer})
    return [*rng.sample(stated, len(stated)), *rng.sample(rest, len(rest))][: OPTIONS - 1]


def figures(rows: pandas.DataFrame, methods: list[str]) -> list[go.Figure]:
    """Right answers by operations and by length, for either way of asking."""
    pictures = []
    for ask, mine in rows.groupby("ask"):
        groups = {"operations": f"operations ({ask})", "length": f"tokens of the problem ({ask})"}
        pictures += accuracies(mine, methods, groups, 1 / OPTIONS)
    return pictures
