"""Assignment 5, Triton kernels: on which inputs answers are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a5 import add_scaled, merge, row_lse, strided_lse, tilt
from multipole_lab.course.questions.mistakes.a5 import MISTAKES
from multipole_lab.course.questions.question import Question, Random


def _clusters(r: Random, sizes: list[int], D: int, size: float = 1.0, below: bool = False) -> tuple:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    if below:
        return 9 + r(D).abs(), -r(sum(sizes), D).abs() - 9, r.permutation(sum(sizes)), offsets, 0.6
    return size * r(D), r(sum(sizes), D), r.permutation(sum(sizes)), offsets, 0.6


def _masked(r: Random, count: int) -> Tensor:
    x = r(2, 45)
    x[:, :count] = -torch.inf
    return x


QUESTIONS = {
    "A5.1": Question(
        lambda r: [("whole tiles", (r(32), r(32), 1.5)), ("a tile that sticks out", (r(21), r(21), -0.5))],
        add_scaled,
        MISTAKES["A5.1"],
        forbidden=("torch",),
        special={"a tile that sticks out": "the last tile sticks out: mask the loads and the store."},
        tol=1e-3,
    ),
    "A5.2": Question(
        lambda r: [
            ("rows that fill the tile", (r(3, 8),)),
            ("rows that do not", (r(3, 5) - 1,)),
            ("large logits", (300 * r(3, 6) - 200,)),
        ],
        row_lse,
        MISTAKES["A5.2"],
        forbidden=("torch",),
        special={
            "large logits": "subtract the largest logit before tl.exp.",
            "rows that do not": "what stands behind the end of the row must change neither the maximum nor the sum.",
        },
        tol=1e-3,
    ),
    "A5.3": Question(
        lambda r: [
            ("one tile", (r(2, 16),)),
            ("several tiles", (r(2, 40),)),
            ("logits that grow", (torch.arange(45.0).repeat(2, 1) * 3,)),
            ("logits that fall", (torch.arange(45.0).flip(0).repeat(2, 1) * 10,)),
            ("logits far below zero", (r(2, 40) - 300,)),
            ("a row that begins with masked keys", (_masked(r, 33),)),
            ("nothing but masked keys", (_masked(r, 45),)),
        ],
        row_lse,
        MISTAKES["A5.3"],
        forbidden=("torch",),
        special={
            "one tile": "a row of one tile is question 2.",
            "several tiles": "what you carry has to survive the next tile.",
            "logits that grow": "when the maximum grows, what you carry has to shrink: multiply it by exp(old - new).",
            "logits that fall": "the maximum of all that was read, not of the last tile.",
            "logits far below zero": "the running maximum starts at -inf, not at 0: all logits may be far below.",
            "a row that begins with masked keys": "-inf minus -inf is NaN: what if a tile holds nothing but -inf?",
            "nothing but masked keys": "a row of nothing but -inf has the log-sum-exp -inf: what is subtracted then?",
        },
        tol=1e-3,
        hint="do two tiles of two numbers by hand.",
    ),
    "A5.4": Question(
        lambda r: [
            ("ordinary parts", (r(3, 4), r(3), r(3, 4), r(3))),
            ("a width that is no power of two", (r(3, 5), r(3), r(3, 5), r(3))),
            ("large log-sum-exps", (r(3, 4), r(3) + 500, r(3, 4), r(3) + 500)),
            ("a blind part", (torch.full((2, 3), torch.nan), torch.full((2,), -torch.inf), r(2, 3), r(2))),
            ("a blind part", (r(2, 3), r(2), torch.full((2, 3), torch.nan), torch.full((2,), -torch.inf))),
            ("two blind parts", 2 * (torch.full((2, 3), torch.nan), torch.full((2,), -torch.inf))),
        ],
        merge,
        MISTAKES["A5.4"],
        forbidden=("torch",),
        parts=("out", "lse"),
        special={
            "a width that is no power of two": "the tile is wider than the row: mask it by Dv.",
            "large log-sum-exps": "subtract the larger log-sum-exp before tl.exp.",
            "a blind part": "zero times NaN is NaN: use tl.where on the product.",
            "two blind parts": "-inf minus -inf is NaN: both may be blind. Out is 0 there, lse is -inf.",
        },
        tol=1e-3,
    ),
    "A5.5": Question(
        lambda r: [
            ("clusters of one tile", _clusters(r, [8, 8], 4)),
            ("ragged clusters", _clusters(r, [3, 11, 20], 6)),
            ("large logits", _clusters(r, [9, 4], 4, 150.0)),
            ("an empty cluster", _clusters(r, [5, 0, 9], 4)),
            ("logits far below zero", _clusters(r, [9, 4], 4, below=True)),
        ],
        tilt,
        MISTAKES["A5.5"],
        forbidden=("torch",),
        parts=("mass", "centroid"),
        special={
            "large logits": "carry a maximum: subtract it before tl.exp.",
            "ragged clusters": "a cluster of more than one tile: shrink all that you carry.",
            "an empty cluster": "an empty cluster has mass -inf and centroid 0: what do you divide by?",
            "logits far below zero": "the running maximum starts at -inf, not at 0: all logits may be far below.",
        },
        tol=1e-3,
        hint="first the mass alone: it is A5.3 with logits that you compute yourself.",
    ),
    "A5.8": Question(
        lambda r: [
            ("contiguous", (r(12), 3, 4, 4, 1)),
            ("transposed", (r(15), 5, 3, 1, 5)),
            ("large logits", (300 * r(12), 3, 4, 4, 1)),
        ],
        strided_lse,
        MISTAKES["A5.8"],
        forbidden=("torch",),
        tol=1e-3,
    ),
}
