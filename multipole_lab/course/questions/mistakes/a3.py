"""Assignment 3, multipole expansions: the usual mistakes, and what to say of each."""

from __future__ import annotations

import torch

from multipole_lab.course.questions.answers.a3 import covariance, dipole, expand, measure, tilt
from multipole_lab.course.questions.mistakes import a3_ways as ways
from multipole_lab.course.questions.mistakes.a3_ways import equal, weights
from multipole_lab.course.questions.mistakes.sentences import NO_LOG, NO_SCALE, NOT_LARGEST, NOT_MEAN

SUM_TO_ONE = "the weights sum to one already: nothing is divided by the number of members."
HALF = "where is the one half?"

MISTAKES = {
    "A3.1": {
        "exp overflows: use torch.logsumexp and torch.softmax.": (
            ways.naive_tilt,
            lambda p, k, v, s: (ways.naive_tilt(p, k, v, s)[0], *tilt(p, k, v, s)[1:]),
            lambda p, k, v, s: (tilt(p, k, v, s)[0], *ways.naive_tilt(p, k, v, s)[1:]),
        ),
        "the centroids are means under the weights seen from p, not plain means.": (
            ways.tilted(weigh=equal),
            ways.tilted(values=equal),
            lambda p, k, v, s: (tilt(p, k, v, s)[0], k.double().mean(0), tilt(p, k, v, s)[2]),
        ),
        NO_SCALE: lambda p, k, v, s: tilt(p, k, v, 1.0),
        "the scale stands in the weights, too.": ways.tilted(weigh=lambda p, k, s: weights(p, k, 1.0)),
        "the mass has the scale in its logits, too.": lambda p, k, v, s: (
            tilt(p, k, v, 1.0)[0],
            *tilt(p, k, v, s)[1:],
        ),
        "the centroid is a mean of the keys: the scale is in the weights only.": lambda p, k, v, s: (
            tilt(p, k, v, s)[0],
            s * tilt(p, k, v, s)[1],
            tilt(p, k, v, s)[2],
        ),
        NOT_MEAN: (
            ways.tilted(a=lambda x: x.logsumexp(0) - torch.tensor(float(len(x))).log()),
            ways.tilted(a=lambda x: x.float().exp().mean().log()),
        ),
        NO_LOG: ways.tilted(a=lambda x: x.float().exp().sum()),
        NOT_LARGEST: ways.tilted(a=lambda x: x.max()),
        "the weights have to sum to one: divide by their sum.": (
            ways.tilted(weigh=lambda p, k, s: (s * k @ p).exp().double()),
            ways.tilted(weigh=lambda p, k, s: (s * k @ p - (s * k @ p).max()).exp().double()),
        ),
        "the mean of the values comes last: (a, k_tilted, v_tilted) is the order.": lambda p, k, v, s: (
            tilt(p, k, v, s)[0],
            tilt(p, k, v, s)[2],
            tilt(p, k, v, s)[1],
        ),
    },
    "A3.2": {
        "that is the second moment: subtract the centroid first.": ways.of_keys(
            ways.plain_product(both=None)
        ),
        "the keys count by their weights seen from p, not equally.": (
            ways.of_keys(ways.plain_product(both=equal, weigh=equal)),
            ways.of_keys(ways.plain_product(both=weights, weigh=equal)),
            ways.of_keys(ways.plain_product(both=equal, weigh=equal, after=lambda x, m, s: x * m)),
            ways.of_keys(ways.plain_product(both=weights, weigh=equal, after=lambda x, m, s: x * m)),
            ways.of_keys(ways.plain_product(both=equal, weigh=equal, after=lambda x, m, s: x * m / (m - 1))),
        ),
        "subtract the tilted centroid, not the plain mean.": ways.of_keys(ways.plain_product(both=equal)),
        "no factor s^2 here: it stands in the expansion.": (
            lambda p, k, s: s**2 * covariance(p, k, s),
            lambda p, k, s: s * covariance(p, k, s),
        ),
        "subtract the centroid before you multiply: large squares lose digits.": ways.squares_apart,
        NO_SCALE: lambda p, k, s: covariance(p, k, 1.0),
        SUM_TO_ONE: lambda p, k, s: covariance(p, k, s) / len(k),
        "each member counts once with its weight: the weights come in once.": ways.of_keys(
            ways.plain_product(both=weights, weigh=lambda p, k, s: weights(p, k, s) ** 2)
        ),
        "a covariance has numbers off the diagonal, too: one for each pair of directions, [D, D].": (
            lambda p, k, s: covariance(p, k, s).diagonal().diag(),
            lambda p, k, s: covariance(p, k, s).diagonal(),
            lambda p, k, s: covariance(p, k, s).diagonal().sum(),
        ),
    },
    "A3.3": {
        HALF: ways.series(second=2.0),
        "the second derivative brings out s twice.": (ways.series(s2=1), ways.series(s2=0)),
        "where is the second order?": ways.series(second=0.0),
        "the first order comes with s.": ways.series(s1=0),
        "neither order has its factor: s comes once with the first, twice with the second.": ways.series(
            s1=0, s2=0
        ),
        "the first order has no one half: that comes with the second.": (
            ways.series(first=0.5),
            ways.series(first=0.5, second=2.0),
        ),
        "where is the first order?": ways.series(first=0.0),
        "sigma has numbers off the diagonal, too: d.Sigma d needs all of them.": ways.series(
            part=lambda sigma: sigma.diagonal().diag()
        ),
        "the sign of the second order: the log mass is convex.": ways.series(second=-1.0),
        "where is a, the mass at p itself?": ways.series(a=0.0),
        "a number for each displacement: the sum goes over the axis of length D, not over [N].": (
            lambda d, a, k, sigma, s: a + s * d @ k + s**2 / 2 * ((d @ sigma) * d).sum(),
            lambda d, a, k, sigma, s: a + s * d @ k + s**2 / 2 * ((d @ sigma) * d).sum(0),
            lambda d, a, k, sigma, s: a + s * d @ k + s**2 / 2 * d @ sigma @ d.T,
        ),
    },
    "A3.4": {
        "subtract both centroids before you multiply.": ways.plain_product(both=None),
        "rows are values and columns are keys: [Dv, D].": lambda p, k, v, s: dipole(p, k, v, s).T,
        "no factor s here: it stands in the expansion.": (
            lambda p, k, v, s: s * dipole(p, k, v, s),
            lambda p, k, v, s: s**2 * dipole(p, k, v, s),
        ),
        "the keys count by their weights seen from p.": (
            ways.plain_product(both=equal, weigh=equal),
            ways.plain_product(both=weights, weigh=equal),
            ways.plain_product(both=equal, weigh=equal, after=lambda x, m, s: x * m),
            ways.plain_product(both=weights, weigh=equal, after=lambda x, m, s: x * m),
        ),
        "subtract the tilted centroids, not the plain means.": ways.plain_product(both=equal),
        NO_SCALE: lambda p, k, v, s: dipole(p, k, v, 1.0),
        SUM_TO_ONE: lambda p, k, v, s: dipole(p, k, v, s) / len(k),
        "each member counts once with its weight: the weights come in once.": ways.plain_product(
            both=weights, weigh=lambda p, k, s: weights(p, k, s) ** 2
        ),
        "values with keys, not keys with keys.": lambda p, k, v, s: covariance(p, k, s),
        "the sign: (v - v~)(k - k~), both the same way round.": lambda p, k, v, s: -dipole(p, k, v, s),
    },
    "A3.5": {
        "the displacement is q - p.": (
            ways.expanded(of=lambda q, p: q),
            ways.expanded(of=lambda q, p: p - q),
            ways.expanded(of=lambda q, p: q + p),
        ),
        HALF: ways.expanded(half=1.0),
        "is order=2 different from order=1?": lambda q, k, v, labels, p, s, order: expand(
            q, k, v, labels, p, s, 1
        ),
        "is order=1 different from order=2?": lambda q, k, v, labels, p, s, order: expand(
            q, k, v, labels, p, s, 2
        ),
        "order=2 has the first order as well: the second comes on top.": lambda q, k, v, labels, p, s, order: (
            ways.expanded(first=2.0 - order)(q, k, v, labels, p, s, order)
        ),
        "the second order comes with s^2.": (ways.expanded(s2=1), ways.expanded(s2=0)),
        "exact attention is not asked here.": lambda q, k, v, labels, p, s, order: (
            torch.softmax(s * q @ k.T, 1) @ v
        ),
        "the values are tilted centroids as well, not plain means.": ways.expanded(values=equal),
        "the last cluster is missing: labels go from 0 to labels.max(), both included.": ways.expanded(
            clusters=-1
        ),
        "masses may be large: subtract the largest before exp, or use torch.softmax.": ways.expanded(
            single=True
        ),
        "a cluster counts by its mass at q: not all the same, and not by its number of keys.": (
            ways.constant_masses(torch.zeros_like),
            ways.constant_masses(torch.log),
            ways.constant_masses(lambda count: count),
            ways.expanded(mass=lambda a, size: 0.0 * a),
            ways.expanded(mass=lambda a, size: torch.tensor(float(size)).log()),
        ),
        "a mass is the logarithm of a sum over the members, not of a mean.": ways.expanded(
            mass=lambda a, size: a - torch.tensor(float(size)).log()
        ),
        "the softmax goes over the clusters, for each query: which axis?": ways.expanded(axis=0),
    },
    "A3.6": {
        "first order first.": lambda *args: measure(*args)[::-1],
        "squared errors: no square root.": ways.measured(
            lambda guess, exact: ways.relative(guess, exact).sqrt()
        ),
        "squares, not absolute values.": ways.measured(
            lambda guess, exact: (guess - exact).abs().sum() / exact.abs().sum()
        ),
        "sum first, then divide: not the mean of the queries' own ratios.": (
            ways.measured(
                lambda guess, exact: ((guess - exact).square().sum(1) / exact.square().sum(1)).mean()
            ),
            ways.measured(lambda guess, exact: ((guess - exact).square() / exact.square()).mean()),
            ways.measured(lambda guess, exact: ((guess - exact).norm(dim=1) / exact.norm(dim=1)).mean()),
        ),
        "relative to the exact output, not to the approximation.": ways.measured(
            lambda guess, exact: (guess - exact).square().sum() / guess.square().sum()
        ),
        "a relative error: divide by the sum of squares of the exact output.": (
            ways.measured(lambda guess, exact: (guess - exact).square().sum()),
            ways.measured(lambda guess, exact: (guess - exact).square().mean()),
            ways.measured(lambda guess, exact: (guess - exact).square().sum(1).mean()),
        ),
        "both orders are asked: one of them comes twice here.": (
            ways.measured(ways.relative, orders=(1, 1)),
            ways.measured(ways.relative, orders=(2, 2)),
        ),
        "exact attention has the scale, too.": ways.measured(ways.relative, exact_scale=False),
        "percent: the ratio itself is asked.": ways.measured(
            lambda guess, exact: 100 * ways.relative(guess, exact)
        ),
    },
    "A3.8": {
        HALF: ways.second_order(square=1.0),
        "that is the dipole; one term is missing.": ways.second_order(square=0.0),
        "where is the dipole? The whole right-hand side is asked.": ways.second_order(linear=0.0),
        "where is the value centroid itself? The whole right-hand side is asked.": ways.second_order(
            value=0.0
        ),
        "Q(d) has the values less their value centroid: v - v~.": (
            ways.second_order(values=None),
            ways.second_order(values=equal),
        ),
        "Q(d) has the keys less their key centroid: k - k~.": (
            ways.second_order(keys=None),
            ways.second_order(keys=equal),
        ),
        "every d comes with s.": ways.second_order(power=0),
        "the second order comes with s^2.": (ways.second_order(extra=-1), ways.second_order(extra=-2)),
        "the sign of the second order.": ways.second_order(square=-0.5),
        "the members count by their weights seen from p.": ways.second_order(weigh=equal),
    },
}
