"""Assignment 1, exact attention and merging: the usual mistakes, and what to say of each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a1 import attend, causal, mask, pull, weights
from multipole_lab.course.questions.mistakes import a1_merging
from multipole_lab.course.questions.mistakes.sentences import (
    ADD_BACK,
    NO_LOG,
    NO_MAX,
    NO_SCALE,
    NOT_LARGEST,
    NOT_MEAN,
)


def logits(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """As a student has them: [Nq, Nk] in the type of the inputs."""
    return scale * q @ k.T


def hidden_logits(q: Tensor, k: Tensor, scale: float, by: int = 0, fill: float = -torch.inf) -> Tensor:
    return logits(q, k, scale).masked_fill(mask(len(q), len(k), by), fill)


def naive(x: Tensor) -> Tensor:
    grown = x.exp()
    return grown / grown.sum(-1, keepdim=True)


def shifted(x: Tensor) -> Tensor:
    return (x - x.amax(-1, keepdim=True)).exp()


# What goes wrong between the logits [Nq, Nk] and a partial (out, lse), masked or not.
PARTIALS: dict[str, Callable | tuple[Callable, ...]] = {
    NO_MAX: lambda x, v: (naive(x) @ v, x.exp().sum(-1).log()),
    ADD_BACK: (
        lambda x, v: (x.softmax(-1) @ v, x.logsumexp(-1) - x.amax(-1)),
        lambda x, v: (x.softmax(-1) @ v, x.logsumexp(-1) - 2 * x.amax(-1)),
    ),
    "the largest logit is added to the logarithm: it stands outside, and is no factor.": lambda x, v: (
        x.softmax(-1) @ v,
        (x.logsumexp(-1) - x.amax(-1)) * x.amax(-1),
    ),
    "is lse a natural logarithm?": lambda x, v: (x.softmax(-1) @ v, x.logsumexp(-1) / math.log(2)),
    "out is a mean: did you divide by the sum of weights?": (
        lambda x, v: (shifted(x) @ v, x.logsumexp(-1)),
        lambda x, v: (x.exp() @ v, x.logsumexp(-1)),
    ),
    NO_LOG: (
        lambda x, v: (x.softmax(-1) @ v, shifted(x).sum(-1)),
        lambda x, v: (x.softmax(-1) @ v, x.exp().sum(-1)),
        lambda x, v: (x.softmax(-1) @ v, x.amax(-1) + shifted(x).sum(-1)),
    ),
    NOT_LARGEST: lambda x, v: (x.softmax(-1) @ v, x.amax(-1)),
    NOT_MEAN: (
        lambda x, v: (x.softmax(-1) @ v, x.logsumexp(-1) - math.log(x.shape[1])),
        lambda x, v: (x.softmax(-1) @ v, x.logsumexp(-1) - x.isfinite().sum(-1).log()),
    ),
    "take the sum for lse before you divide: normalised weights sum to one.": lambda x, v: (
        x.softmax(-1) @ v,
        0 * x.amax(-1),
    ),
    "one softmax for each query: which axis?": (
        lambda x, v: (x.softmax(0) @ v, x.logsumexp(-1)),
        lambda x, v: (x.softmax(0) @ v, x.logsumexp(0)),
    ),
}


def partials(logits_of: Callable) -> dict[str, tuple[Callable, ...]]:
    """The same mistakes for a question whose arguments are (q, k, v, scale)."""

    def of(rule: Callable) -> Callable:
        return lambda q, k, v, scale: rule(logits_of(q, k, scale), v)

    return {
        sentence: tuple(of(rule) for rule in (rules if isinstance(rules, tuple) else (rules,)))
        for sentence, rules in PARTIALS.items()
    }


def of_weights(rule: Callable) -> Callable:
    return lambda q, k, scale: rule(logits(q, k, scale))


def masked(**change: object) -> Callable:
    return lambda q, k, v, scale: attend(q, k, v, scale, mask(len(q), len(k), **change))


def late_mask(q, k, v, scale):
    return causal(q, k, v, scale)[0], attend(q, k, v, scale)[1]


def masked_sums(q, k, v, scale):
    """Masked after exp, relative to the largest of all logits."""
    seen = shifted(logits(q, k, scale)) * ~mask(len(q), len(k))
    return seen @ v / seen.sum(-1, keepdim=True), attend(q, k, v, scale)[1]


def unrenormalised(q, k, v, scale):
    seen = weights(q, k, scale).masked_fill(mask(len(q), len(k)), 0.0)
    return seen @ v.double(), attend(q, k, v, scale)[1]


def past_hidden(q, k, v, scale):
    Nq, Nk = len(q), len(k)
    return attend(q, k, v, scale, torch.ones(Nq, Nk).tril(Nk - Nq - 1).bool())


def zeroed(q, k, v, scale):
    """Multiplied by a mask of zeros and ones; the largest of all logits is subtracted."""
    x = logits(q, k, scale).double() * ~mask(len(q), len(k))
    return x.softmax(-1) @ v.double(), x.logsumexp(-1)


def filled(fill: float) -> Callable:
    def answer(q, k, v, scale):
        x = hidden_logits(q, k, scale, fill=fill).double()
        return x.softmax(-1) @ v.double(), x.logsumexp(-1)

    return answer


EACH_ROW = "the largest of each row, please: neither of each column nor of all."
BEFORE = "multiply by the scale before you look for the largest: below zero it turns the order round."

MISTAKES = a1_merging.MISTAKES | {
    "A1.1": {
        NO_MAX: (of_weights(naive), of_weights(lambda x: naive(x - x.mean(-1, keepdim=True)))),
        NO_SCALE: lambda q, k, scale: weights(q, k, 1.0),
        "do you divide by sqrt(D) although the scale is an argument?": (
            lambda q, k, scale: weights(q, k, scale / math.sqrt(q.shape[1])),
            lambda q, k, scale: weights(q, k, 1 / math.sqrt(q.shape[1])),
        ),
        "the scale multiplies the logits, it does not divide them.": lambda q, k, scale: weights(
            q, k, 1 / scale
        ),
        "does each row sum to one, or each column?": (
            of_weights(lambda x: x.softmax(0)),
            of_weights(lambda x: shifted(x) / shifted(x).sum(0)),
            of_weights(lambda x: (x - x.amax(0)).exp() / (x - x.amax(0)).exp().sum(0)),
        ),
        "each row sums to one by itself: a sum of each row, not of all.": of_weights(
            lambda x: shifted(x) / shifted(x).sum()
        ),
        EACH_ROW: (
            of_weights(lambda x: (x - x.max()).exp() / (x - x.max()).exp().sum(-1, keepdim=True)),
            of_weights(lambda x: naive(x - x.amax(0))),
        ),
        "did you divide by the sum?": (of_weights(torch.exp), of_weights(shifted)),
        "exp, not 2 to the power of: torch.exp and not torch.exp2.": of_weights(
            lambda x: (x.double() * math.log(2)).softmax(-1)
        ),
        "those are the logarithms of the weights: where is the last exp?": (
            of_weights(lambda x: x.double().log_softmax(-1)),
            of_weights(lambda x: shifted(x).log() - shifted(x).sum(-1, keepdim=True).log()),
        ),
        "those are the logits: where is exp?": of_weights(lambda x: x),
    },
    "A1.2": {
        **partials(logits),
        NO_SCALE: lambda q, k, v, scale: attend(q, k, v, 1.0),
    },
    "A1.3": {
        **partials(hidden_logits),
        NO_SCALE: lambda q, k, v, scale: causal(q, k, v, 1.0),
        "the queries are the last positions: query i stands at Nk - Nq + i.": masked(top=True),
        "off by one: a position sees itself.": masked(by=-1),
        "off by one: a position does not see the next one.": masked(by=1),
        "a hidden key has weight zero: its logit is -inf, not zero and not one that is only small.": (
            zeroed,
            *map(filled, (0.0, -1.0, -10.0, -100.0)),
        ),
        "is there a mask at all?": attend,
        "the future is to be hidden, not the past.": past_hidden,
        "hide the keys before you compute lse, not after.": (
            late_mask,
            masked_sums,
        ),
        "hide the keys before you divide by the sum: the weights of what is left sum to one.": (
            unrenormalised,
            lambda q, k, v, scale: (unrenormalised(q, k, v, scale)[0], causal(q, k, v, scale)[1]),
        ),
    },
    "A1.8": {
        "the chain rule brings out a factor: the scale.": lambda q, k, scale: pull(q, k, scale) / scale,
        "the keys count by their weights, not equally.": lambda q, k, scale: (scale * k.mean(0)).expand_as(q),
        "the scale stands inside the weights, too.": lambda q, k, scale: (
            scale * weights(q, k, 1.0) @ k.double()
        ),
        "the scale comes out once: is it in `weights` already?": lambda q, k, scale: (
            scale * pull(q, k, scale)
        ),
        "the gradient is the weighted mean itself, not its distance from the plain one.": (
            lambda q, k, scale: pull(q, k, scale) - scale * k.mean(0),
            lambda q, k, scale: pull(q, k, scale) - scale * k.mean(0) * scale,
        ),
        "a gradient for each query: nothing is summed over the queries.": lambda q, k, scale: pull(
            q, k, scale
        ).sum(0),
        "the gradient is that of lse in q: the keys are averaged, not the queries.": lambda q, k, scale: (
            scale * weights(q, k, scale) @ k.double() - scale * q
        ),
        NO_MAX: lambda q, k, scale: scale * naive(logits(q, k, scale)) @ k,
    },
}
