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
from multipole_lab.course.questions.mistakes.a1 import BEFORE, MISTAKES
from multipole_lab.course.questions.mistakes.sentences import NO_MAX
from multipole_lab.course.questions.question import Question, Random


def shapes(r: Random, Dv: bool) -> list[tuple[str, tuple]]:
    """Inputs (q, k[, v], scale) of several sizes; the last with logits that overflow exp."""
    sizes = [
        ("a few queries and keys", 4, 7, 5, 1.0),
        ("more queries than keys", 9, 3, 4, 1.0),
        ("a single key", 3, 1, 6, 1.0),
        ("large logits", 5, 8, 6, 300.0),
        ("a scale below zero", 4, 6, 5, 90.0),
    ]
    cases = []
    for label, Nq, Nk, D, size in sizes:
        q, k = size * r(Nq, D), r(Nk, D)
        scale = (-1.4 if "below" in label else 0.7) / math.sqrt(D)
        cases.append((label, (q, k, *([r(Nk, 3)] if Dv else []), scale)))
    return cases


def _streams(r: Random) -> list[tuple[str, tuple]]:
    def blocks(*sizes, size=1.0):
        return [(size**i * r(n, 4), r(n, 3)) for i, n in enumerate(sizes)]

    return [
        ("one block", (r(5, 4), blocks(6), 0.5)),
        ("uneven blocks", (r(3, 4), blocks(2, 5, 1), 0.5)),
        ("logits that grow from block to block", (r(3, 4), blocks(4, 3, 4, 2, size=7.0), 0.5)),
        ("logits far below zero", (r(3, 4).abs() + 9, [(-r(n, 4).abs() - 20, r(n, 3)) for n in (3, 4)], 0.5)),
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
    sizes = [
        ("as many keys as queries", 5, 5, 1.0),
        ("more keys than queries", 3, 8, 1.0),
        ("one query", 1, 6, 1.0),
        ("large logits", 6, 9, 300.0),
    ]
    below = (r(4, 4).abs() + 40, -r(7, 4).abs() - 1, r(7, 3), 0.5)
    cases = [(label, (size * r(Nq, 4), r(Nk, 4), r(Nk, 3), 0.5)) for label, Nq, Nk, size in sizes]
    return [*cases, ("logits far below zero", below)]


QUESTIONS = {
    "A1.1": Question(
        lambda r: shapes(r, False),
        weights,
        MISTAKES["A1.1"],
        forbidden=("softmax",),
        special={
            "large logits": NO_MAX,
            "a scale below zero": BEFORE,
        },
        tol=1e-3,
        hint="write down the logits for two queries and two keys, and do the sum by hand.",
    ),
    "A1.2": Question(
        lambda r: shapes(r, True),
        attend,
        MISTAKES["A1.2"],
        forbidden=("softmax",),
        parts=("out", "lse"),
        special={
            "large logits": NO_MAX,
            "a scale below zero": BEFORE,
        },
        tol=1e-3,
        hint="check A1.1 first: out is weights @ v.",
    ),
    "A1.3": Question(
        _causal_cases,
        causal,
        MISTAKES["A1.3"],
        forbidden=("softmax",),
        parts=("out", "lse"),
        special={
            "more keys than queries": "the queries are the last positions: query i stands at Nk - Nq + i.",
            "large logits": NO_MAX,
            "logits far below zero": "hidden means weight zero: a logit of -inf, not one that is only small.",
        },
        tol=1e-3,
        hint="draw the mask for Nq = 2, Nk = 4.",
    ),
    "A1.4": Question(
        _merges,
        merge,
        MISTAKES["A1.4"],
        forbidden=("softmax",),
        parts=("out", "lse"),
        special={
            "two parts": "try the two equations of the question with one number each.",
            "four parts": "there may be any number of parts: do all of them count?",
            "large log-sum-exps": "subtract the largest lse before exp.",
            "a part that saw nothing": "a blind part: what is -inf minus -inf, and zero times NaN?",
            "only parts that saw nothing": "all parts blind: -inf minus -inf is NaN. Out is 0 there, lse is -inf.",
        },
        tol=1e-3,
    ),
    "A1.5": Question(
        lambda r: [
            ("ordinary parts", halves(r, 4, 3, 0.0)),
            ("large log-sum-exps", halves(r, 4, 3, 300.0)),
            ("a light part", halves(r, 4, 3, 0.0, gap=-8.0)),
            ("a part that saw nothing", (halves(r, 4, 3, 0.0)[0], (r(4, 3), torch.full((4,), -torch.inf)))),
        ],
        remove,
        MISTAKES["A1.5"],
        forbidden=("softmax",),
        parts=("out", "lse"),
        special={
            "large log-sum-exps": "exp overflows: keep to exp(gone_lse - lse), which is at most one.",
            "a part that saw nothing": "a part with lse = -inf takes nothing away: the whole comes back.",
        },
        tol=1e-3,
    ),
    "A1.6": Question(
        _streams,
        stream,
        MISTAKES["A1.6"],
        forbidden=("softmax",),
        parts=("out", "lse"),
        uses={"weights": "A1.1", "attend": "A1.2", "merge": "A1.4"},
        special={
            "one block": "does the first block count?",
            "logits that grow from block to block": "what you carry has to shrink when the maximum grows.",
            "logits far below zero": "the running maximum starts at -inf, not at 0: all logits may be far below.",
        },
        tol=1e-3,
    ),
    "A1.8": Question(
        lambda r: [(label, (q, k, scale)) for label, (q, k, scale) in shapes(r, False)],
        pull,
        MISTAKES["A1.8"],
        forbidden=("softmax", "autograd"),
        uses={"weights": "A1.1", "attend": "A1.2"},
        special={"large logits": NO_MAX},
        tol=1e-3,
    ),
}
