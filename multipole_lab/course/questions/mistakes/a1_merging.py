"""Assignment 1, merging, removing and streams: the usual mistakes, and what to say of each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a1 import attend, merge, remove, stream
from multipole_lab.course.questions.mistakes.sentences import (
    ADD_BACK,
    FROM_ZERO,
    NO_LOG,
    NO_MAX,
    NO_SCALE,
    NOT_LARGEST,
    NOT_MEAN,
    SHRINK,
    SUM_OF_EXP,
)


def merged(share: Callable | None = None, lse: Callable | None = None, guard: bool = True) -> Callable:
    """A merge of parts with other weights of the outputs or another lse, both computed from all lse [P, N]."""

    def answer(parts):
        outs, lses = (torch.stack(rows) for rows in zip(*parts, strict=True))
        if guard:
            outs = torch.where(torch.isneginf(lses)[..., None], 0.0, outs)
        right = merge(parts)
        out = right[0] if share is None else (share(lses)[..., None] * outs).sum(0)
        return out, right[1] if lse is None else lse(lses)

    return answer


def base(lses: Tensor) -> Tensor:
    return lses.amax(0).nan_to_num(neginf=0.0)


def overflowing(lses: Tensor) -> Tensor:
    return lses.exp() / lses.exp().sum(0)


def naive_merge(parts):
    return merged(overflowing, lambda lses: lses.exp().sum(0).log(), guard=False)(parts)


def nan_merge(parts):
    return merged(lambda lses: (lses - lses.logsumexp(0)).exp(), guard=False)(parts)


def some(count: slice) -> Callable:
    return lambda parts: merge(parts[count])


def naive_remove(whole, part):
    (out, lse), (gone, gone_lse) = whole, part
    rest = lse.exp() - gone_lse.exp()
    return (lse.exp()[:, None] * out - gone_lse.exp()[:, None] * gone) / rest[:, None], rest.log()


def removed(out: Callable | None = None, lse: Callable | None = None) -> Callable:
    """A removal with another output, of (out, gone, share [N, 1]), or another lse, of (lse, gone_lse, share [N])."""

    def answer(whole, part):
        share, right = (part[1] - whole[1]).double().exp(), remove(whole, part)
        return (
            right[0] if out is None else out(whole[0], part[0], share[:, None]),
            right[1] if lse is None else lse(whole[1], part[1], share),
        )

    return answer


def carried(
    out: bool = True, total: bool = True, sign: float = 1.0, start: float = -torch.inf, fixed: bool = False
) -> Callable:
    """One pass in float32 in which the output or the sum does not shrink, or shrinks the wrong way."""

    def answer(q, blocks, scale):
        largest = torch.full((len(q),), start)
        z, o = torch.zeros(len(q)), torch.zeros(len(q), blocks[0][1].shape[1])
        for k, v in blocks:
            x = scale * q @ k.T
            higher = largest if fixed else torch.maximum(largest, x.amax(-1))
            shrink, grown = (sign * (largest - higher)).exp(), (x - higher[:, None]).exp()
            if not largest.isfinite().all():
                shrink = torch.zeros_like(shrink) if sign > 0 or not (out and total) else shrink
            z = z * (shrink if total else 1.0) + grown.sum(-1)
            o = o * (shrink[:, None] if out else 1.0) + grown @ v
            largest = higher
        return o / z[:, None], largest + z.log()

    return answer


def of_stream(rule: Callable) -> Callable:
    """A mistake between all logits and the result."""

    def answer(q, blocks, scale):
        k, v = (torch.cat(rows).double() for rows in zip(*blocks, strict=True))
        return rule(scale * q.double() @ k.T, v)

    return answer


def averaged(q, blocks, scale):
    parts = [attend(q, k, v, scale) for k, v in blocks]
    return torch.stack([out for out, _ in parts]).mean(0), merge(parts)[1]


DIVIDE = "out is a mean: did you divide by the sum of weights?"

MISTAKES = {
    "A1.4": {
        "subtract the largest lse before exp.": (
            naive_merge,
            merged(overflowing, lambda lses: lses.exp().sum(0).log()),
            merged(
                lambda lses: lses.exp() / lses.exp().sum(0).masked_fill(lses.exp().sum(0) == 0, 1.0)[None],
                lambda lses: lses.exp().sum(0).log(),
            ),
            merged(lse=lambda lses: lses.exp().sum(0).log()),
        ),
        "a blind part: what is -inf minus -inf, and zero times NaN?": (
            nan_merge,
            merged(
                lambda lses: (lses - base(lses)).exp() / (lses - base(lses)).exp().sum(0).clamp(min=1.0),
                guard=False,
            ),
            merged(lambda lses: (lses - lses.amax(0)).softmax(0), guard=False),
        ),
        "a part with more weight counts more: weigh the outputs.": (
            merged(lambda lses: torch.ones_like(lses) / len(lses), guard=False),
            merged(lambda lses: torch.ones_like(lses) / len(lses)),
        ),
        NOT_LARGEST: merged(lse=lambda lses: lses.amax(0)),
        NOT_MEAN: merged(lse=lambda lses: lses.logsumexp(0) - torch.tensor(float(len(lses))).log()),
        SUM_OF_EXP: (merged(lse=lambda lses: lses.sum(0)), merged(lse=lambda lses: lses.mean(0))),
        ADD_BACK: merged(lse=lambda lses: lses.logsumexp(0) - base(lses)),
        NO_LOG: (
            merged(lse=lambda lses: lses.exp().sum(0)),
            merged(lse=lambda lses: (lses - base(lses)).exp().sum(0)),
        ),
        "the weights sum to one: divide by their sum.": (
            merged(lambda lses: (lses - base(lses)).exp()),
            merged(lambda lses: lses.exp()),
        ),
        "the weights are exp(lse - total), not lse itself: exp(lse) counts.": (
            merged(lambda lses: lses / lses.sum(0)),
            merged(lambda lses: lses / lses.sum(0), guard=False),
        ),
        "there may be any number of parts: only some of them count here.": (
            some(slice(2)),
            some(slice(1)),
            some(slice(-1, None)),
        ),
    },
    "A1.5": {
        "exp overflows: keep to exp(gone_lse - lse), which is at most one.": naive_remove,
        "the rest is a mean again: divide by its share.": (
            removed(lambda out, gone, share: out - share * gone),
            removed(lambda out, gone, share: (out - share * gone) / share),
            removed(lambda out, gone, share: (out - share * gone) / (1 + share)),
        ),
        "what goes counts by its share: out - share * gone.": (
            removed(lambda out, gone, share: out - gone),
            removed(lambda out, gone, share: (out - gone) / (1 - share)),
        ),
        "lse is no sum of log-sum-exps: use log(1 - share).": (
            removed(lse=lambda lse, gone, share: lse - gone),
            removed(lse=lambda lse, gone, share: lse + (1 + share).log()),
            removed(lse=lambda lse, gone, share: lse - (1 - share).log()),
            removed(lse=lambda lse, gone, share: lse - share),
            removed(lse=lambda lse, gone, share: lse + share.log()),
        ),
        "lse becomes smaller, too, when something goes.": removed(lse=lambda lse, gone, share: lse),
        "log(1 - share) is the change: lse itself has to be added.": removed(
            lse=lambda lse, gone, share: (1 - share).log()
        ),
        "the part is to be taken away, not merged in.": lambda whole, part: merge([whole, part]),
        "the share is exp(gone_lse - lse), not the other way round.": (
            lambda whole, part: remove(part, whole),
            removed(
                lambda out, gone, share: (out - gone / share) / (1 - 1 / share),
                lambda lse, gone, share: lse + (1 - 1 / share).log(),
            ),
        ),
    },
    "A1.6": {
        NO_MAX: carried(start=0.0, fixed=True),
        NO_SCALE: lambda q, blocks, scale: stream(q, blocks, 1.0),
        FROM_ZERO: carried(start=0.0),
        SHRINK: carried(out=False, total=False),
        "the unnormalised output has to shrink, too, not only the sum.": carried(out=False),
        "the sum has to shrink, too, not only the unnormalised output.": carried(total=False),
        "the factor is exp(old - new), which is at most one, not exp(new - old).": carried(sign=-1.0),
        "blocks count by their weight, not equally.": averaged,
        "the last block is not the whole stream.": (
            lambda q, blocks, scale: attend(q, *blocks[-1], scale),
            lambda q, blocks, scale: (attend(q, *blocks[-1], scale)[0], stream(q, blocks, scale)[1]),
        ),
        "the first block is not the whole stream: does the loop go on?": lambda q, blocks, scale: attend(
            q, *blocks[0], scale
        ),
        DIVIDE: of_stream(lambda x, v: ((x - x.amax(-1, keepdim=True)).exp() @ v, x.logsumexp(-1))),
        ADD_BACK: of_stream(lambda x, v: (x.softmax(-1) @ v, x.logsumexp(-1) - x.amax(-1))),
        NO_LOG: of_stream(lambda x, v: (x.softmax(-1) @ v, (x - x.amax(-1, keepdim=True)).exp().sum(-1))),
        NOT_LARGEST: of_stream(lambda x, v: (x.softmax(-1) @ v, x.amax(-1))),
        SUM_OF_EXP: lambda q, blocks, scale: (
            stream(q, blocks, scale)[0],
            torch.stack([attend(q, k, v, scale)[1] for k, v in blocks]).sum(0),
        ),
    },
}
