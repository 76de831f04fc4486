"""Assignment 3, multipole expansions: ways of computing something else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a3 import log_mass, tilt


def weights(p: Tensor, k: Tensor, s: float) -> Tensor:
    return torch.softmax(s * k.double() @ p.double(), 0)


def equal(p: Tensor, k: Tensor, s: float) -> Tensor:
    return torch.full((len(k),), 1 / len(k), dtype=torch.float64)


def product(
    weigh: Callable = weights,
    centre: Callable | None = weights,
    values: Callable | None = weights,
    after: Callable = lambda product, m, s: product,
) -> Callable:
    """The weighted product of values and keys, of (p, k, v, s).

    ``weigh`` weighs the members; ``centre`` and ``values`` weigh the means that are subtracted from the keys and from
    the values, None where nothing is. ``after`` changes the result, of (product, members, s).
    """

    def answer(p, k, v, s):
        k, v = k.double(), v.double()
        one = v - values(p, k, s) @ v if values else v
        other = k - centre(p, k, s) @ k if centre else k
        return after(one.T @ (weigh(p, k, s)[:, None] * other), len(k), s)

    return answer


def of_keys(way: Callable) -> Callable:
    """The same for the keys with themselves, of (p, k, s)."""
    return lambda p, k, s: way(p, k, k, s)


def plain_product(**change: object) -> Callable:
    """Keys and values centred by the same rule."""
    centre = change.pop("both")
    return product(centre=centre, values=centre, **change)


sigma = of_keys(product())


def squares_apart(p, k, s):
    """In float32, as a difference of two large numbers."""
    w = torch.softmax(s * k @ p, 0)
    return k.T @ (w[:, None] * k) - torch.outer(w @ k, w @ k)


def naive_tilt(p, k, v, s):
    grown = (s * k @ p).exp()
    return grown.sum().log(), grown @ k / grown.sum(), grown @ v / grown.sum()


def tilted(
    a: Callable | None = None, weigh: Callable | None = None, values: Callable | None = None
) -> Callable:
    """Another log mass, of the logits, or other weights of all members, or of the values alone."""

    def answer(p, k, v, s):
        right, w = tilt(p, k, v, s), weigh(p, k, s) if weigh else weights(p, k, s)
        x = s * k.double() @ p.double()
        u = values(p, k, s) if values else w
        return right[0] if a is None else a(x), w @ k.double(), u @ v.double()

    return answer


def series(
    first: float = 1.0, second: float = 1.0, a: float = 1.0, s1: int = 1, s2: int = 2, part=None
) -> Callable:
    """A mass with other factors: of its terms, of s in the first and in the second order, of parts of sigma."""

    def answer(d, mass, k_tilted, sigma, s):
        d, k_tilted, sigma = d.double(), k_tilted.double(), sigma.double()
        sigma = sigma if part is None else part(sigma)
        square = torch.einsum("nd,de,ne->n", d, sigma, d)
        return a * mass + first * s**s1 * (d @ k_tilted) + second * s**s2 * square / 2

    return answer


def expanded(
    half: float = 0.5,
    of: Callable = lambda q, p: q - p,
    orders: tuple = (1, 2),
    mass: Callable = lambda a, size: a,
    values: Callable = weights,
    axis: int = 1,
    clusters: int = 0,
    first: float = 1.0,
    s2: int = 2,
    single: bool = False,
) -> Callable:
    """Attention from clusters that are expanded in another way; ``single`` sums exponentials in float32."""

    def answer(q, k, v, labels, p, s, order):
        order = orders[order - 1]
        d = of(q.double(), p.double())
        masses, outputs = [], []
        for j in range(int(labels.max()) + 1 + clusters):
            inside, there = k[labels == j].double(), v[labels == j].double()
            w = weights(p, inside, s)
            linear = first * s * d @ (w @ inside)
            square = torch.einsum("nd,de,ne->n", d, sigma(p, inside, s), d) if order == 2 else 0.0
            masses.append(mass(log_mass(p.double(), inside, s), len(inside)) + linear + half * s**s2 * square)
            outputs.append(values(p, inside, s) @ there)
        stacked = torch.stack(masses, 1)
        share = stacked.softmax(axis)
        if single:
            share = stacked.float().exp() / stacked.float().exp().sum(1, keepdim=True)
        return share.double() @ torch.stack(outputs)

    return answer


def constant_masses(rule: Callable) -> Callable:
    """Every query sees the same masses, of (members)."""

    def answer(q, k, v, labels, p, s, order):
        count = torch.bincount(labels)
        outputs = torch.stack(
            [weights(p, k[labels == j], s) @ v[labels == j].double() for j in range(len(count))]
        )
        return rule(count.double()).softmax(0).expand(len(q), -1) @ outputs

    return answer


def measured(rule: Callable, orders: tuple = (1, 2), exact_scale: bool = True, **change: object) -> Callable:
    """Another number for each order, of (approximation, exact output)."""

    def answer(q, k, v, labels, p, s):
        scale = s if exact_scale else 1.0
        exact = torch.softmax(scale * q.double() @ k.double().T, 1) @ v.double()
        return tuple(float(rule(expanded(**change)(q, k, v, labels, p, s, order), exact)) for order in orders)

    return answer


def relative(guess: Tensor, exact: Tensor) -> Tensor:
    return (guess - exact).square().sum() / exact.square().sum()


def second_order(
    linear: float = 1.0,
    square: float = 0.5,
    value: float = 1.0,
    weigh: Callable = weights,
    keys: Callable | None = weights,
    values: Callable | None = weights,
    power: int = 1,
    extra: int = 0,
) -> Callable:
    """The value at p + d with other factors; ``power`` of s in d, ``extra`` powers in the second order."""

    def answer(d, p, k, v, s):
        d, p, k, v = d.double(), p.double(), k.double(), v.double()
        w, mean = weigh(p, k, s), weights(p, k, s) @ v
        along = s**power * d @ (k - keys(p, k, s) @ k if keys else k).T
        rest = v - (values(p, k, s) @ v if values else 0.0)
        return value * mean + (w * (linear * along + square * s**extra * along.square())) @ rest

    return answer
