"""Assignment 1, exact attention and merging: the usual mistakes, and what to say of each."""

from __future__ import annotations

import math

import torch

from multipole_lab.course.questions.answers.a1 import attend, causal, mask, merge, pull, remove, weights

NO_MAX = "did you subtract the largest logit before exp?"
NO_SCALE = "did you forget the scale?"


def naive(q, k, scale):
    grown = (scale * q @ k.T).exp()
    return grown / grown.sum(-1, keepdim=True)


def naive_attend(q, k, v, scale):
    return naive(q, k, scale) @ v, (scale * q @ k.T).exp().sum(-1).log()


def shifted_lse(q, k, v, scale):
    out, lse = attend(q, k, v, scale)
    return out, lse - (scale * q @ k.T).amax(-1)


def zeroed(q, k, v, scale):
    logits = (scale * q @ k.T).double().masked_fill(mask(len(q), len(k)), 0.0)
    return logits.softmax(-1) @ v.double(), logits.logsumexp(-1)


def late_mask(q, k, v, scale):
    out, _ = causal(q, k, v, scale)
    return out, attend(q, k, v, scale)[1]


def naive_merge(parts):
    grown = torch.stack([lse.exp() for _, lse in parts])
    out = sum(g[:, None] * out for g, (out, _) in zip(grown, parts, strict=True))
    return out / grown.sum(0)[:, None], grown.sum(0).log()


def nan_merge(parts):
    lse = torch.stack([lse for _, lse in parts]).double()
    share = (lse - lse.logsumexp(0)).exp()
    return (share[..., None] * torch.stack([out for out, _ in parts])).sum(0), lse.logsumexp(0)


def mean_merge(parts):
    return torch.stack([out for out, _ in parts]).mean(0), merge(parts)[1]


def naive_remove(whole, part):
    (out, lse), (gone, gone_lse) = whole, part
    rest = lse.exp() - gone_lse.exp()
    return (lse.exp()[:, None] * out - gone_lse.exp()[:, None] * gone) / rest[:, None], rest.log()


def undivided_remove(whole, part):
    share = (part[1] - whole[1]).exp()[:, None]
    return whole[0] - share * part[0], remove(whole, part)[1]


def unscaled_stream(q, blocks, scale):
    """Carries sums taken relative to a maximum that has changed since."""
    largest, total, out = None, 0.0, 0.0
    for k, v in blocks:
        logits = scale * q @ k.T
        largest = logits.amax(-1) if largest is None else torch.maximum(largest, logits.amax(-1))
        grown = (logits - largest[:, None]).exp()
        total, out = total + grown.sum(-1), out + grown @ v
    return out / total[:, None], largest + total.log()


def averaged_stream(q, blocks, scale):
    parts = [attend(q, k, v, scale) for k, v in blocks]
    return torch.stack([out for out, _ in parts]).mean(0), merge(parts)[1]


MISTAKES = {
    "A1.1": {
        NO_MAX: naive,
        NO_SCALE: lambda q, k, scale: weights(q, k, 1.0),
        "do you divide by sqrt(D) although the scale is an argument?": lambda q, k, scale: weights(
            q, k, scale / math.sqrt(q.shape[1])
        ),
        "does each row sum to one, or each column?": lambda q, k, scale: (scale * q @ k.T).softmax(0),
        "did you divide by the sum?": lambda q, k, scale: (scale * q @ k.T).exp(),
    },
    "A1.2": {
        NO_MAX: naive_attend,
        NO_SCALE: lambda q, k, v, scale: attend(q, k, v, 1.0),
        "what you subtracted before exp has to be added to lse again.": shifted_lse,
        "is lse a natural logarithm?": lambda q, k, v, scale: (
            attend(q, k, v, scale)[0],
            attend(q, k, v, scale)[1] / math.log(2),
        ),
        "out is a mean: did you divide by the sum of weights?": lambda q, k, v, scale: (
            (scale * q @ k.T - (scale * q @ k.T).amax(-1, keepdim=True)).exp() @ v,
            attend(q, k, v, scale)[1],
        ),
    },
    "A1.3": {
        "the queries are the last positions: query i stands at Nk - Nq + i.": lambda q, k, v, scale: attend(
            q, k, v, scale, mask(len(q), len(k), top=True)
        ),
        "off by one: a position sees itself.": lambda q, k, v, scale: attend(
            q, k, v, scale, mask(len(q), len(k), by=-1)
        ),
        "off by one: a position does not see the next one.": lambda q, k, v, scale: attend(
            q, k, v, scale, mask(len(q), len(k), by=1)
        ),
        "a hidden key has weight zero, so its logit is -inf and not zero.": zeroed,
        "is there a mask at all?": attend,
        "hide the keys before you compute lse, not after.": late_mask,
    },
    "A1.4": {
        "subtract the largest lse before exp.": naive_merge,
        "what is -inf minus -inf, and zero times NaN?": nan_merge,
        "a part with more weight counts more: weigh the outputs.": mean_merge,
        "lse is the logarithm of a sum, not the largest.": lambda parts: (
            merge(parts)[0],
            torch.stack([lse for _, lse in parts]).amax(0),
        ),
    },
    "A1.5": {
        "exp overflows: keep to exp(gone_lse - lse), which is at most one.": naive_remove,
        "the rest is a mean again: divide by its share.": undivided_remove,
        "lse is no sum of log-sum-exps: use log(1 - share).": lambda whole, part: (
            remove(whole, part)[0],
            whole[1] - part[1],
        ),
    },
    "A1.6": {
        "when the maximum grows, what you carry has to shrink: multiply it by exp(old - new).": (
            unscaled_stream
        ),
        "blocks count by their weight, not equally.": averaged_stream,
        "the last block is not the whole stream.": lambda q, blocks, scale: attend(q, *blocks[-1], scale),
    },
    "A1.8": {
        "the chain rule brings out a factor: the scale.": lambda q, k, scale: pull(q, k, scale) / scale,
        "the keys count by their weights, not equally.": lambda q, k, scale: (scale * k.mean(0)).expand_as(q),
    },
}
