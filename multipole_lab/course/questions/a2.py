"""Assignment 2, clustering keys: on which inputs answers are compared."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a2 import (
    assign,
    capped,
    enough,
    farthest_first,
    find_sink,
    lloyd,
    spread,
    update,
)
from multipole_lab.course.questions.mistakes.a2 import MISTAKES
from multipole_lab.course.questions.question import Question, Random


def _planted(r: Random, N: int, where: int) -> tuple:
    q, k = r(N, 8) + 1.5, r(N, 8)
    k[where] = 2.5
    return q, k, 1 / math.sqrt(8)


def _groups(r: Random, shift: float) -> Tensor:
    return 3 * r(6, 4)[r.integers(0, 6, 90)] + 0.5 * r(90, 4) + shift


def _between(x: Tensor, few: int, many: int) -> tuple:
    """A share that ``many`` clusters keep to and that ``few`` come closer to."""
    left, right = (spread(x, count, x.double().mean(0)) for count in (few, many))
    return x, [few - 2, few, many, many + 4], 0.9 * left + 0.1 * right


QUESTIONS = {
    "A2.1": Question(
        lambda r: [
            ("random keys", (r(20, 4), r(6, 4))),
            (
                "centroids of very different length",
                (r(20, 4), r(6, 4) * torch.tensor([1, 2, 4, 1, 2, 4])[:, None]),
            ),
            ("one centroid", (r(5, 3), r(1, 3))),
            ("ties", (torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))),
        ],
        assign,
        MISTAKES["A2.1"],
        special={"ties": "of two that are equally near the lower number wins: `argmin` gives the first."},
    ),
    "A2.2": Question(
        lambda r: [
            ("every cluster has keys", (r(14, 3), torch.arange(14) % 4, r(4, 3))),
            ("an empty cluster", (r(12, 3), 2 * (torch.arange(12) % 3), r(5, 3))),
            ("the last clusters are empty", (r(13, 3), torch.arange(13) % 3, r(5, 3))),
        ],
        update,
        MISTAKES["A2.2"],
        special={
            (
                "an empty cluster",
                "the last clusters are empty",
            ): "a cluster without keys keeps its old centroid."
        },
        tol=1e-3,
    ),
    "A2.3": Question(
        lambda r: [
            ("one round", (r(30, 3), r(4, 3), 1)),
            ("three rounds", (r(30, 3), r(4, 3), 3)),
            ("no round", (r(30, 3), r(4, 3), 0)),
        ],
        lloyd,
        MISTAKES["A2.3"],
        parts=("labels", "centroids"),
        uses={"assign": "A2.1", "update": "A2.2"},
        special={
            "no round": "with no round the centroids come back as they are, with their labels.",
            "three rounds": "each round starts from the centroids of the round before.",
        },
        tol=1e-3,
        hint="check A2.1 and A2.2 first.",
    ),
    "A2.4": Question(
        lambda r: [
            ("a limit that nobody feels", (r(15, 3), r(3, 3), 15)),
            ("a limit that some feel", (r(15, 3), r(3, 3), 6)),
            ("every place taken", (r(15, 3), r(3, 3), 5)),
        ],
        capped,
        MISTAKES["A2.4"],
        uses={"assign": "A2.1"},
        special={
            "every place taken": "the last keys go where there is a place: is every key looked at?",
            "a limit that nobody feels": "without a limit each key has the label of its nearest centroid.",
        },
    ),
    "A2.5": Question(
        lambda r: [
            ("a sink at the first key", _planted(r, 20, 0)),
            ("a sink elsewhere", _planted(r, 24, 5)),
            ("hardly a sink", (r(15, 4), r(15, 4), 0.5)),
        ],
        find_sink,
        MISTAKES["A2.5"],
        parts=("position", "share"),
        tol=1e-3,
    ),
    "A2.6": Question(
        lambda r: [
            ("a share between those of two counts", _between(_groups(r, 4.0), 4, 5)),
            *(
                (f"at most {share} of the spread inside", (_groups(r, 4.0), counts, share))
                for share, counts in (
                    (0.6, [2, 3, 4, 8, 16]),
                    (0.1, [2, 4, 8, 16]),
                    (1e-4, [1, 2, 4]),
                )
            ),
        ],
        enough,
        MISTAKES["A2.6"],
        library=True,
    ),
    "A2.8": Question(
        lambda r: [
            ("a few of many", (r(30, 3), 7, 2)),
            ("all of them", (r(6, 2), 6, 0)),
            ("only the first", (r(6, 2), 1, 3)),
            ("ties", (torch.cartesian_prod(torch.arange(4.0), torch.arange(3.0))[r.permutation(12)], 7, 0)),
        ],
        farthest_first,
        MISTAKES["A2.8"],
        special={
            "ties": "of two keys that are equally far the lower position wins: `argmax` gives the first."
        },
    ),
}
