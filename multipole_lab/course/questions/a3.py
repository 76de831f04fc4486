"""Assignment 3: multipole expansions. What is right, and what usually goes wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions.question import Question, Random

# --- right, by automatic differentiation, which the questions forbid --------------------------------


def _log_mass(p: Tensor, k: Tensor, s: float) -> Tensor:
    return torch.logsumexp(s * k @ p, 0)


def _value(p: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.softmax(s * k @ p, 0) @ v


def tilt(p: Tensor, k: Tensor, v: Tensor, s: float) -> tuple[Tensor, Tensor, Tensor]:
    p, k, v = p.double(), k.double(), v.double()
    slope = torch.func.grad(_log_mass)(p, k, s)
    return _log_mass(p, k, s), slope / s, _value(p, k, v, s)


def covariance(p: Tensor, k: Tensor, s: float) -> Tensor:
    return torch.func.hessian(_log_mass)(p.double(), k.double(), s) / s**2


def mass(d: Tensor, a: Tensor, k_tilted: Tensor, sigma: Tensor, s: float) -> Tensor:
    """Differentiates the polynomial that it is: value, slope and curvature at 0, put together by Taylor's theorem."""
    d, k_tilted, root = d.double(), k_tilted.double(), torch.linalg.cholesky(_positive(sigma.double()))
    along = (d @ root).square().sum(1)
    return a.double() + s * (d * k_tilted).sum(1) + along * s * s / 2


def dipole(p: Tensor, k: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.func.jacrev(_value)(p.double(), k.double(), v.double(), s) / s


def expand(
    q: Tensor, k: Tensor, v: Tensor, labels: Tensor, p: Tensor, s: float, order: int, weigh: float = 0.5
) -> Tensor:
    d, p, k, v = (q - p).double(), p.double(), k.double(), v.double()
    masses, values = [], []
    for j in range(int(labels.max()) + 1):
        inside = k[labels == j]
        slope = torch.func.grad(_log_mass)(p, inside, s)
        bend = (
            torch.func.hessian(_log_mass)(p, inside, s)
            if order == 2
            else torch.zeros(len(p), len(p)).double()
        )
        masses.append(_log_mass(p, inside, s) + d @ slope + weigh * torch.einsum("nd,de,ne->n", d, bend, d))
        values.append(_value(p, inside, v[labels == j], s))
    return torch.stack(masses, 1).softmax(1) @ torch.stack(values)


def measure(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, p: Tensor, s: float) -> tuple[float, float]:
    exact = torch.stack([_value(one, k.double(), v.double(), s) for one in q.double()])
    return tuple(
        float((expand(q, k, v, labels, p, s, order) - exact).square().sum() / exact.square().sum())
        for order in (1, 2)
    )


def quadrupole(d: Tensor, p: Tensor, k: Tensor, v: Tensor, s: float, weigh: float = 0.5) -> Tensor:
    p, k, v, d = p.double(), k.double(), v.double(), d.double()
    slope = torch.func.jacrev(_value)(p, k, v, s)
    bend = torch.func.hessian(_value)(p, k, v, s)
    return _value(p, k, v, s) + d @ slope.T + weigh * torch.einsum("vde,nd,ne->nv", bend, d, d)


# --- wrong ----------------------------------------------------------------------------------------


def _positive(sigma: Tensor) -> Tensor:
    return sigma + 1e-12 * sigma.diagonal().mean().clamp(min=1e-30) * torch.eye(len(sigma)).double()


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


def _pieces(r: Random) -> list[tuple[str, tuple]]:
    def one(N, D, s):
        root = r(D, D)
        return r(N, D), r(1)[0], r(D), root @ root.T / D, s

    return [("a few displacements", one(5, 4, 0.7)), ("one displacement", one(1, 3, 1.4))]


def _problem(r: Random, order: int, step: float = 1.0) -> tuple:
    labels = torch.cat([torch.arange(3), r.integers(0, 3, 15)])
    p = r(4)
    return p + step * r(5, 4), r(18, 4), r(18, 3), labels, p, 0.5, order


QUESTIONS = {
    "A3.1": Question(
        lambda r: [
            ("ordinary inputs", (r(4), r(9, 4), r(9, 3), 0.6)),
            ("one key", (r(4), r(1, 4), r(1, 3), 0.6)),
            ("large logits", (300 * r(5), r(7, 5), r(7, 2), 0.9)),
        ],
        tilt,
        {
            "exp overflows: use torch.logsumexp and torch.softmax.": _naive_tilt,
            "the centroids are means under the weights seen from p, not plain means.": _plain_tilt,
            "did you forget the scale?": lambda p, k, v, s: tilt(s**-1 * p, k, v, s),
        },
        tol=1e-3,
    ),
    "A3.2": Question(
        lambda r: [
            ("ordinary inputs", (r(4), r(9, 4), 0.6)),
            ("another size", (r(3), r(12, 3), 1.1)),
            ("keys with a large mean", (r(3), r(8, 3) + 5, 0.3)),
        ],
        covariance,
        {
            "that is the second moment: subtract the centroid first.": _second_moment,
            "the keys count by their weights seen from p, not equally.": _plain_covariance,
            "subtract the tilted centroid, not the plain mean.": _half_tilted,
            "no factor s^2 here: it stands in the expansion.": lambda p, k, s: s**2 * covariance(p, k, s),
        },
        tol=1e-3,
    ),
    "A3.3": Question(
        _pieces,
        mass,
        {
            "where is the one half?": lambda d, a, k, sigma, s: mass(d, a, k, 2 * sigma, s),
            "the second derivative brings out s twice.": lambda d, a, k, sigma, s: mass(
                d, a, k, sigma / s, s
            ),
            "where is the second order?": lambda d, a, k, sigma, s: a + s * d @ k,
            "the first order comes with s.": lambda d, a, k, sigma, s: mass(d, a, k / s, sigma, s),
        },
        tol=1e-3,
    ),
    "A3.4": Question(
        lambda r: [
            ("ordinary inputs", (r(4), r(9, 4), r(9, 3), 0.6)),
            ("large means", (r(4), r(9, 4) + 3, r(9, 5) - 4, 0.3)),
        ],
        dipole,
        {
            "subtract both centroids before you multiply.": _uncentred_dipole,
            "rows are values and columns are keys: [Dv, D].": lambda p, k, v, s: dipole(p, k, v, s).T,
            "no factor s here: it stands in the expansion.": lambda p, k, v, s: s * dipole(p, k, v, s),
            "the keys count by their weights seen from p.": lambda p, k, v, s: (
                (v - v.mean(0)).double().T @ (k - k.mean(0)).double() / len(k)
            ),
        },
        tol=1e-3,
    ),
    "A3.5": Question(
        lambda r: [("first order", _problem(r, 1)), ("second order", _problem(r, 2))],
        expand,
        {
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
        tol=1e-3,
        hint="check A3.1, A3.2 and A3.3 first; then try a single cluster.",
    ),
    "A3.6": Question(
        lambda r: [
            ("queries near p", _problem(r, 1, 0.5)[:6]),
            ("queries far from p", _problem(r, 1, 3.0)[:6]),
        ],
        measure,
        {
            "first order first.": _swapped,
            "squared errors: no square root.": _unsquared,
        },
        tol=1e-2,
    ),
    "A3.8": Question(
        lambda r: [
            ("ordinary inputs", (r(5, 4), r(4), r(9, 4), r(9, 3), 0.6)),
            ("one displacement", (r(1, 3), r(3), r(6, 3), r(6, 2), 1.2)),
        ],
        quadrupole,
        {
            "where is the one half?": lambda d, p, k, v, s: quadrupole(d, p, k, v, s, weigh=1.0),
            "that is the dipole; one term is missing.": lambda d, p, k, v, s: quadrupole(
                d, p, k, v, s, weigh=0.0
            ),
        },
        tol=1e-3,
    ),
}
