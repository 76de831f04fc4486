"""Assignment 3, multipole expansions: on which inputs answers are compared."""

from __future__ import annotations

import torch

from multipole_lab.course.questions.answers.a3 import (
    covariance,
    dipole,
    expand,
    mass,
    measure,
    quadrupole,
    tilt,
)
from multipole_lab.course.questions.mistakes.a3 import MISTAKES
from multipole_lab.course.questions.question import Question, Random


def _pieces(r: Random) -> list[tuple[str, tuple]]:
    def one(N, D, s):
        root = r(D, D)
        return r(N, D), r(1)[0], r(D), root @ root.T / D, s

    return [("a few displacements", one(5, 4, 0.7)), ("one displacement", one(1, 3, 1.4))]


def _problem(r: Random, order: int, step: float = 1.0, keys: float = 1.0) -> tuple:
    labels = torch.cat([torch.arange(3), r.integers(0, 3, 15)])
    p = r(4)
    return p + step * r(5, 4), keys * r(18, 4), r(18, 3), labels, p, 0.6, order


QUESTIONS = {
    "A3.1": Question(
        lambda r: [
            ("ordinary inputs", (r(4), r(9, 4), r(9, 3), 0.6)),
            ("one key", (r(4), r(1, 4), r(1, 3), 0.6)),
            ("large logits", (300 * r(5), r(7, 5), r(7, 2), 0.9)),
        ],
        tilt,
        MISTAKES["A3.1"],
        forbidden=("autograd",),
        parts=("a", "k_tilted", "v_tilted"),
        special={"large logits": "exp overflows: use torch.logsumexp and torch.softmax."},
        tol=1e-3,
    ),
    "A3.2": Question(
        lambda r: [
            ("ordinary inputs", (r(4), r(9, 4), 0.6)),
            ("another size", (r(3), r(12, 3), 1.1)),
            ("keys with a large mean", (r(3), r(8, 3) + 5, 0.3)),
            ("keys far from the origin", (r(3), r(8, 3) + 400, 0.1)),
        ],
        covariance,
        MISTAKES["A3.2"],
        forbidden=("autograd",),
        uses={"tilt": "A3.1"},
        special={
            "keys far from the origin": "subtract the centroid before you multiply: large squares lose digits."
        },
        tol=1e-3,
    ),
    "A3.3": Question(
        _pieces,
        mass,
        MISTAKES["A3.3"],
        forbidden=("autograd",),
        tol=1e-3,
    ),
    "A3.4": Question(
        lambda r: [
            ("ordinary inputs", (r(4), r(9, 4), r(9, 3), 0.6)),
            ("large means", (r(4), r(9, 4) + 3, r(9, 5) - 4, 0.3)),
        ],
        dipole,
        MISTAKES["A3.4"],
        forbidden=("autograd",),
        uses={"tilt": "A3.1"},
        special={"large means": "subtract the centroids before you multiply."},
        tol=1e-3,
    ),
    "A3.5": Question(
        lambda r: [
            ("first order", _problem(r, 1)),
            ("second order", _problem(r, 2)),
            ("large masses", _problem(r, 1, 2.0, keys=80.0)),
        ],
        expand,
        MISTAKES["A3.5"],
        forbidden=("autograd",),
        uses={"tilt": "A3.1", "covariance": "A3.2", "mass": "A3.3"},
        special={
            "first order": "order=1 has no second-order term.",
            "second order": "order=2 has the second-order term s^2/2 d.Sigma d on top.",
            "large masses": "masses may be large: subtract the largest before exp, or use torch.softmax.",
        },
        tol=1e-3,
        hint="check A3.1, A3.2 and A3.3 first; then try a single cluster.",
    ),
    "A3.6": Question(
        lambda r: [
            ("queries near p", _problem(r, 1, 0.5)[:6]),
            ("queries far from p", _problem(r, 1, 3.0)[:6]),
        ],
        measure,
        MISTAKES["A3.6"],
        forbidden=("autograd",),
        parts=("the first-order error", "the second-order error"),
        uses={"tilt": "A3.1", "covariance": "A3.2", "mass": "A3.3", "expand": "A3.5"},
        tol=1e-2,
    ),
    "A3.8": Question(
        lambda r: [
            ("ordinary inputs", (r(5, 4), r(4), r(9, 4), r(9, 3), 0.6)),
            ("one displacement", (r(1, 3), r(3), r(6, 3), r(6, 2), 1.2)),
        ],
        quadrupole,
        MISTAKES["A3.8"],
        forbidden=("autograd",),
        uses={"tilt": "A3.1", "dipole": "A3.4"},
        tol=1e-3,
    ),
}
