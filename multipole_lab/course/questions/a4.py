"""Assignment 4, the causal hierarchy and its cost: on which inputs answers are compared."""

from __future__ import annotations

from multipole_lab.course.questions.answers.a4 import (
    best_leaf,
    coverage,
    crossover,
    hierarchical,
    plan,
    quarters,
    work,
)
from multipole_lab.course.questions.mistakes.a4 import MISTAKES
from multipole_lab.course.questions.question import Question, Random


def _inputs(r: Random, N: int, leaf: int, chunk: int) -> tuple:
    return r(N, 4), r(N, 4), r(N, 3), 0.6, leaf, chunk


QUESTIONS = {
    "A4.1": Question(
        lambda r: [
            ("a power of two", (8, 2)),
            ("odd lengths", (5 + int(r.integers(0, 9, 1)), 2)),
            ("one leaf", (3, 4)),
            ("leaves of one position", (6, 1)),
        ],
        plan,
        MISTAKES["A4.1"],
        special={
            "odd lengths": "the left half is the longer one: round up.",
            "one leaf": "`n <= leaf`: the whole is one leaf.",
            "leaves of one position": "a single position is a leaf, too.",
        },
        hint="the list has to be sorted, and its items are tuples of four integers.",
    ),
    "A4.2": Question(
        lambda r: [
            ("a right plan", (plan(9, 2), 9)),
            ("a block twice", (plan(6, 2) + plan(6, 2)[:2], 6)),
            ("a block missing", (plan(7, 3)[1:], 7)),
        ],
        coverage,
        MISTAKES["A4.2"],
        special={
            "a block twice": "count: a pair that comes twice is a 2.",
            "a block missing": "a pair that no block has is a 0: count what is there.",
        },
    ),
    "A4.3": Question(
        lambda r: [
            ("chunks of one key (this is exact attention)", _inputs(r, 12, 3, 1)),
            ("chunks of three", _inputs(r, 12, 3, 3)),
            ("an odd length", _inputs(r, 17, 4, 4)),
            ("one leaf", _inputs(r, 5, 8, 2)),
        ],
        hierarchical,
        MISTAKES["A4.3"],
        uses={"plan": "A4.1"},
        special={
            "chunks of one key (this is exact attention)": "with chunk=1 each key is a source of its own.",
            "an odd length": "the last chunk of a block may be shorter: it counts log m for its own m.",
            "one leaf": "a text that is one leaf has no square.",
        },
        tol=1e-3,
        hint="chunk=1 must give exact causal attention: start there.",
    ),
    "A4.4": Question(
        lambda r: [
            ("a power of two", (32, 4, 3)),
            ("an odd length", (45, 7, 2)),
            ("one leaf", (5, 9, 4)),
            ("many clusters", (20, 3, 16)),
        ],
        work,
        MISTAKES["A4.4"],
        uses={"plan": "A4.1"},
        special={"one leaf": "a text that is one leaf has no square: m (m + 1) / 2 alone."},
    ),
    "A4.5": Question(
        lambda r: [
            ("few clusters", (32, 4)),
            ("many clusters", (4, 16)),
            ("break even", (16, 8)),
            ("an odd leaf", (3, 1)),
            ("one position", (1, 1)),
        ],
        crossover,
        MISTAKES["A4.5"],
        uses={"plan": "A4.1", "work": "A4.4"},
        special={
            (
                "one position",
                "an odd leaf",
            ): "compare with n (n + 1) / 2, and begin with n = leaf, whatever leaf is.",
            "break even": "less is asked, not as much.",
        },
    ),
    "A4.6": Question(
        lambda r: [("ordinary inputs", _inputs(r, 16, 2, 3)), ("another size", _inputs(r, 24, 3, 5))],
        quarters,
        MISTAKES["A4.6"],
        parts=("the first quarter", "the second quarter", "the third quarter", "the last quarter"),
        uses={"plan": "A4.1", "hierarchical": "A4.3"},
        tol=1e-2,
    ),
    "A4.8": Question(
        lambda r: [
            ("a power of two", (256, 8)),
            ("an odd length", (300, 20)),
            ("many clusters", (32, 99)),
            ("one position", (1, 5)),
        ],
        best_leaf,
        MISTAKES["A4.8"],
        uses={"plan": "A4.1", "work": "A4.4"},
    ),
}
