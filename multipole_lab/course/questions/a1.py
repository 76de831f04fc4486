"""Assignment 1, exact attention and merging: on which inputs answers are compared."""

from __future__ import annotations

import math

import torch

from multipole_lab.course.questions.answers.a1 import (
    attend,
    causal,
    halves,
    merge,
    pull,
    remove,
    stream,
    weights,
)
from multipole_lab.course.questions.mistakes.a1 import MISTAKES
from multipole_lab.course.questions.question import Question, Random


def shapes(r: Random, Dv: bool) -> list[tuple[str, tuple]]:
    """Inputs (q, k[, v], scale) of several sizes; the last with logits that overflow exp."""
    sizes = [
        ("a few queries and keys", 4, 7, 5, 1.0),
        ("more queries than keys", 9, 3, 4, 1.0),
        ("a single key", 3, 1, 6, 1.0),
        ("large logits", 5, 8, 6, 300.0),
    ]
    cases = []
    for label, Nq, Nk, D, size in sizes:
        q, k = size * r(Nq, D), r(Nk, D)
        cases.append((label, (q, k, *([r(Nk, 3)] if Dv else []), 0.7 / math.sqrt(D))))
    return cases


def _streams(r: Random) -> list[tuple[str, tuple]]:
    def blocks(*sizes, size=1.0):
        return [(size**i * r(n, 4), r(n, 3)) for i, n in enumerate(sizes)]

    return [
        ("one block", (r(5, 4), blocks(6), 0.5)),
        ("uneven blocks", (r(3, 4), blocks(2, 5, 1), 0.5)),
        ("logits that grow from block to block", (r(3, 4), blocks(4, 3, 4, 2, size=7.0), 0.5)),
    ]


def _merges(r: Random) -> list[tuple[str, tuple]]:
    nan = (torch.full((4, 3), torch.nan), torch.full((4,), -torch.inf))
    return [
        ("two parts", ([(r(4, 3), r(4)), (r(4, 3), r(4))],)),
        ("four parts", ([(r(2, 5), r(2)) for _ in range(4)],)),
        ("large log-sum-exps", ([(r(4, 3), 900 + r(4)), (r(4, 3), 901 + r(4))],)),
        ("a part that saw nothing", ([(r(4, 3), r(4)), nan],)),
        ("only parts that saw nothing", ([nan, nan],)),
    ]


def _causal_cases(r: Random) -> list[tuple[str, tuple]]:
    sizes = [("as many keys as queries", 5, 5), ("more keys than queries", 3, 8), ("one query", 1, 6)]
    return [(label, (r(Nq, 4), r(Nk, 4), r(Nk, 3), 0.5)) for label, Nq, Nk in sizes]


QUESTIONS = {
    "A1.1": Question(
        lambda r: shapes(r, False),
        weights,
        MISTAKES["A1.1"],
        tol=1e-3,
        hint="write down the logits for two queries and two keys, and do the sum by hand.",
    ),
    "A1.2": Question(
        lambda r: shapes(r, True),
        attend,
        MISTAKES["A1.2"],
        tol=1e-3,
        hint="check A1.1 first: out is weights @ v.",
    ),
    "A1.3": Question(
        _causal_cases,
        causal,
        MISTAKES["A1.3"],
        tol=1e-3,
        hint="draw the mask for Nq = 2, Nk = 4.",
    ),
    "A1.4": Question(
        _merges,
        merge,
        MISTAKES["A1.4"],
        tol=1e-3,
    ),
    "A1.5": Question(
        lambda r: [
            ("ordinary parts", halves(r, 4, 3, 0.0)),
            ("large log-sum-exps", halves(r, 4, 3, 300.0)),
            ("a light part", halves(r, 4, 3, 0.0, gap=-8.0)),
        ],
        remove,
        MISTAKES["A1.5"],
        tol=1e-3,
    ),
    "A1.6": Question(
        _streams,
        stream,
        MISTAKES["A1.6"],
        tol=1e-3,
    ),
    "A1.8": Question(
        lambda r: [(label, (q, k, scale)) for label, (q, k, scale) in shapes(r, False)],
        pull,
        MISTAKES["A1.8"],
        tol=1e-3,
    ),
}
