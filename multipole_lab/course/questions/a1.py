"""Assignment 1: exact attention and merging. On which inputs answers are compared, and what to say of wrong ones."""

from __future__ import annotations

import math

import torch

from multipole_lab.course.questions import a1_answers as wrong
from multipole_lab.course.questions.a1_answers import (
    attend,
    causal,
    halves,
    mask,
    merge,
    pull,
    remove,
    stream,
    weights,
)
from multipole_lab.course.questions.question import Question, Random


def shapes(r: Random, Dv: bool) -> list[tuple[str, tuple]]:
    """Inputs (q, k[, v], scale) of several sizes; the last with logits that overflow exp."""
    sizes = [
        ("a few queries and keys", 4, 7, 5, 1.0),
        ("more queries than keys", 9, 3, 4, 1.0),
        ("a single key", 3, 1, 6, 1.0),
        ("large logits", 5, 8, 6, 300.0),
    ]
    cases = []
    for label, Nq, Nk, D, size in sizes:
        q, k = size * r(Nq, D), r(Nk, D)
        cases.append((label, (q, k, *([r(Nk, 3)] if Dv else []), 0.7 / math.sqrt(D))))
    return cases


def _streams(r: Random) -> list[tuple[str, tuple]]:
    def blocks(*sizes, size=1.0):
        return [(size**i * r(n, 4), r(n, 3)) for i, n in enumerate(sizes)]

    return [
        ("one block", (r(5, 4), blocks(6), 0.5)),
        ("uneven blocks", (r(3, 4), blocks(2, 5, 1), 0.5)),
        ("logits that grow from block to block", (r(3, 4), blocks(4, 3, 4, 2, size=7.0), 0.5)),
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
    sizes = [("as many keys as queries", 5, 5), ("more keys than queries", 3, 8), ("one query", 1, 6)]
    return [(label, (r(Nq, 4), r(Nk, 4), r(Nk, 3), 0.5)) for label, Nq, Nk in sizes]


NO_MAX = "did you subtract the largest logit before exp?"
NO_SCALE = "did you forget the scale?"

QUESTIONS = {
    "A1.1": Question(
        lambda r: shapes(r, False),
        weights,
        {
            NO_MAX: wrong.naive,
            NO_SCALE: lambda q, k, scale: weights(q, k, 1.0),
            "do you divide by sqrt(D) although the scale is an argument?": lambda q, k, scale: weights(
                q, k, scale / math.sqrt(q.shape[1])
            ),
            "does each row sum to one, or each column?": lambda q, k, scale: (scale * q @ k.T).softmax(0),
            "did you divide by the sum?": lambda q, k, scale: (scale * q @ k.T).exp(),
        },
        tol=1e-3,
        hint="write down the logits for two queries and two keys, and do the sum by hand.",
    ),
    "A1.2": Question(
        lambda r: shapes(r, True),
        attend,
        {
            NO_MAX: wrong.naive_attend,
            NO_SCALE: lambda q, k, v, scale: attend(q, k, v, 1.0),
            "what you subtracted before exp has to be added to lse again.": wrong.shifted_lse,
            "is lse a natural logarithm?": lambda q, k, v, scale: (
                attend(q, k, v, scale)[0],
                attend(q, k, v, scale)[1] / math.log(2),
            ),
            "out is a mean: did you divide by the sum of weights?": lambda q, k, v, scale: (
                (scale * q @ k.T - (scale * q @ k.T).amax(-1, keepdim=True)).exp() @ v,
                attend(q, k, v, scale)[1],
            ),
        },
        tol=1e-3,
        hint="check A1.1 first: out is weights @ v.",
    ),
    "A1.3": Question(
        _causal_cases,
        causal,
        {
            "the queries are the last positions: query i stands at Nk - Nq + i.": lambda q, k, v, scale: (
                attend(q, k, v, scale, mask(len(q), len(k), top=True))
            ),
            "off by one: a position sees itself.": lambda q, k, v, scale: attend(
                q, k, v, scale, mask(len(q), len(k), by=-1)
            ),
            "off by one: a position does not see the next one.": lambda q, k, v, scale: attend(
                q, k, v, scale, mask(len(q), len(k), by=1)
            ),
            "a hidden key has weight zero, so its logit is -inf and not zero.": wrong.zeroed,
            "is there a mask at all?": attend,
            "hide the keys before you compute lse, not after.": wrong.late_mask,
        },
        tol=1e-3,
        hint="draw the mask for Nq = 2, Nk = 4.",
    ),
    "A1.4": Question(
        _merges,
        merge,
        {
            "subtract the largest lse before exp.": wrong.naive_merge,
            "what is -inf minus -inf, and zero times NaN?": wrong.nan_merge,
            "a part with more weight counts more: weigh the outputs.": wrong.mean_merge,
            "lse is the logarithm of a sum, not the largest.": lambda parts: (
                merge(parts)[0],
                torch.stack([lse for _, lse in parts]).amax(0),
            ),
        },
        tol=1e-3,
    ),
    "A1.5": Question(
        lambda r: [
            ("ordinary parts", halves(r, 4, 3, 0.0)),
            ("large log-sum-exps", halves(r, 4, 3, 300.0)),
            ("a light part", halves(r, 4, 3, 0.0, gap=-8.0)),
        ],
        remove,
        {
            "exp overflows: keep to exp(gone_lse - lse), which is at most one.": wrong.naive_remove,
            "the rest is a mean again: divide by its share.": wrong.undivided_remove,
            "lse is no sum of log-sum-exps: use log(1 - share).": lambda whole, part: (
                remove(whole, part)[0],
                whole[1] - part[1],
            ),
        },
        tol=1e-3,
    ),
    "A1.6": Question(
        _streams,
        stream,
        {
            "when the maximum grows, what you carry has to shrink: multiply it by exp(old - new).": (
                wrong.unscaled_stream
            ),
            "blocks count by their weight, not equally.": wrong.averaged_stream,
            "the last block is not the whole stream.": lambda q, blocks, scale: attend(q, *blocks[-1], scale),
        },
        tol=1e-3,
    ),
    "A1.8": Question(
        lambda r: [(label, (q, k, scale)) for label, (q, k, scale) in shapes(r, False)],
        pull,
        {
            "the chain rule brings out a factor: the scale.": lambda q, k, scale: pull(q, k, scale) / scale,
            "the keys count by their weights, not equally.": lambda q, k, scale: (
                scale * k.mean(0)
            ).expand_as(q),
        },
        tol=1e-3,
    ),
}
