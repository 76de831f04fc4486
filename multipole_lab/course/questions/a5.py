"""Assignment 5, Triton kernels: on which inputs answers are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a5 import add_scaled, merge, row_lse, strided_lse, tilt
from multipole_lab.course.questions.mistakes.a5 import MISTAKES
from multipole_lab.course.questions.question import Question, Random


def _clusters(r: Random, sizes: list[int], D: int, size: float = 1.0) -> tuple:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
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
        tol=1e-3,
    ),
    "A5.3": Question(
        lambda r: [
            ("one tile", (r(2, 16),)),
            ("several tiles", (r(2, 40),)),
            ("logits that grow", (torch.arange(45.0).repeat(2, 1) * 3,)),
            ("a row that begins with masked keys", (_masked(r, 33),)),
            ("nothing but masked keys", (_masked(r, 45),)),
        ],
        row_lse,
        MISTAKES["A5.3"],
        tol=1e-3,
        hint="do two tiles of two numbers by hand.",
    ),
    "A5.4": Question(
        lambda r: [
            ("ordinary parts", (r(3, 4), r(3), r(3, 4), r(3))),
            ("a width that is no power of two", (r(3, 5), r(3), r(3, 5), r(3))),
            ("large log-sum-exps", (r(3, 4), r(3) + 500, r(3, 4), r(3) + 500)),
            ("a blind part", (torch.full((2, 3), torch.nan), torch.full((2,), -torch.inf), r(2, 3), r(2))),
        ],
        merge,
        MISTAKES["A5.4"],
        tol=1e-3,
    ),
    "A5.5": Question(
        lambda r: [
            ("clusters of one tile", _clusters(r, [8, 8], 4)),
            ("ragged clusters", _clusters(r, [3, 11, 20], 6)),
            ("large logits", _clusters(r, [9, 4], 4, 150.0)),
            ("an empty cluster", _clusters(r, [5, 0, 9], 4)),
        ],
        tilt,
        MISTAKES["A5.5"],
        tol=1e-3,
        hint="first the mass alone: it is A5.3 with logits that you compute yourself.",
    ),
    "A5.8": Question(
        lambda r: [("contiguous", (r(12), 3, 4, 4, 1)), ("transposed", (r(15), 5, 3, 1, 5))],
        strided_lse,
        MISTAKES["A5.8"],
        tol=1e-3,
    ),
}
