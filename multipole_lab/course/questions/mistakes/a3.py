"""Assignment 3, multipole expansions: the usual mistakes, and what to say of each."""

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


def _weights(p, k, s):
    return torch.softmax(s * k.double() @ p.double(), 0)


def _second_moment(p, k, s):
    return k.double().T @ (_weights(p, k, s)[:, None] * k.double())


def _plain_covariance(p, k, s):
    centred = k.double() - k.double().mean(0)
    return centred.T @ centred / len(k)


def _half_tilted(p, k, s):
    centred = k.double() - k.double().mean(0)
    return centred.T @ (_weights(p, k, s)[:, None] * centred)


def _uncentred_dipole(p, k, v, s):
    return v.double().T @ (_weights(p, k, s)[:, None] * k.double())


def _naive_tilt(p, k, v, s):
    grown = (s * k @ p).exp()
    return grown.sum().log(), grown @ k / grown.sum(), grown @ v / grown.sum()


def _plain_tilt(p, k, v, s):
    return tilt(p, k, v, s)[0], k.mean(0), v.mean(0)


def _unnormalised_expand(q, k, v, labels, p, s, order):
    return expand(q, k, v, labels, p, s, order, weigh=1.0)


def _from_query(q, k, v, labels, p, s, order):
    """Takes q itself for the displacement."""
    return expand(q + p, k, v, labels, p, s, order)


def _swapped(q, k, v, labels, p, s):
    return measure(q, k, v, labels, p, s)[::-1]


def _unsquared(q, k, v, labels, p, s):
    return tuple(error**0.5 for error in measure(q, k, v, labels, p, s))


MISTAKES = {
    "A3.1": {
        "exp overflows: use torch.logsumexp and torch.softmax.": _naive_tilt,
        "the centroids are means under the weights seen from p, not plain means.": _plain_tilt,
        "did you forget the scale?": lambda p, k, v, s: tilt(s**-1 * p, k, v, s),
    },
    "A3.2": {
        "that is the second moment: subtract the centroid first.": _second_moment,
        "the keys count by their weights seen from p, not equally.": _plain_covariance,
        "subtract the tilted centroid, not the plain mean.": _half_tilted,
        "no factor s^2 here: it stands in the expansion.": lambda p, k, s: s**2 * covariance(p, k, s),
    },
    "A3.3": {
        "where is the one half?": lambda d, a, k, sigma, s: mass(d, a, k, 2 * sigma, s),
        "the second derivative brings out s twice.": lambda d, a, k, sigma, s: mass(d, a, k, sigma / s, s),
        "where is the second order?": lambda d, a, k, sigma, s: a + s * d @ k,
        "the first order comes with s.": lambda d, a, k, sigma, s: mass(d, a, k / s, sigma, s),
    },
    "A3.4": {
        "subtract both centroids before you multiply.": _uncentred_dipole,
        "rows are values and columns are keys: [Dv, D].": lambda p, k, v, s: dipole(p, k, v, s).T,
        "no factor s here: it stands in the expansion.": lambda p, k, v, s: s * dipole(p, k, v, s),
        "the keys count by their weights seen from p.": lambda p, k, v, s: (
            (v - v.mean(0)).double().T @ (k - k.mean(0)).double() / len(k)
        ),
    },
    "A3.5": {
        "the displacement is q - p.": _from_query,
        "where is the one half?": _unnormalised_expand,
        "is order=2 different from order=1?": lambda q, k, v, labels, p, s, order: expand(
            q, k, v, labels, p, s, 1
        ),
        "is order=1 different from order=2?": lambda q, k, v, labels, p, s, order: expand(
            q, k, v, labels, p, s, 2
        ),
        "exact attention is not asked here.": lambda q, k, v, labels, p, s, order: (
            torch.softmax(s * q @ k.T, 1) @ v
        ),
    },
    "A3.6": {
        "first order first.": _swapped,
        "squared errors: no square root.": _unsquared,
    },
    "A3.8": {
        "where is the one half?": lambda d, p, k, v, s: quadrupole(d, p, k, v, s, weigh=1.0),
        "that is the dipole; one term is missing.": lambda d, p, k, v, s: quadrupole(
            d, p, k, v, s, weigh=0.0
        ),
    },
}
