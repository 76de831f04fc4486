"""Assignment 5, Triton kernels: the usual mistakes, and what to say of each."""

from __future__ import annotations

import math

import torch

from multipole_lab.course.questions.answers.a5 import add_scaled, merge, row_lse, tilt
from multipole_lab.course.questions.mistakes import a5_ways as ways
from multipole_lab.course.questions.mistakes.sentences import (
    FROM_ZERO,
    NO_LOG,
    NO_SCALE,
    NOT_LARGEST,
    NOT_MEAN,
    SHRINK,
    SUM_OF_EXP,
)

ZEROS = "zeros behind the row count as logits: fill up with -inf."
SUBTRACT = "subtract the largest logit before tl.exp."
ADD = "what you subtracted has to be added again."
MASK = "what stands behind the end of the row is read as well, the next row or NaN: mask the load."
BLIND = "-inf minus -inf is NaN: what if a tile holds nothing but -inf?"
THERE = "which row? Row i of a matrix [M, N] begins at x + i * N, with i = tl.program_id(0)."
STORED = "was anything stored?"


def overflowing(x):
    return x.exp().sum(-1).log()


MISTAKES = {
    "A5.1": {
        "which program are you? tl.program_id(0) * BLOCK is where its tile begins.": (
            ways.first_tile,
            ways.overlapping_tiles,
        ),
        "did you forget alpha?": lambda x, y, alpha: x + y,
        "x + alpha * y: alpha times y, and x as it is.": (
            lambda x, y, alpha: alpha * x + y,
            lambda x, y, alpha: alpha * (x + y),
            lambda x, y, alpha: x,
            lambda x, y, alpha: alpha * y,
            lambda x, y, alpha: x + alpha,
            lambda x, y, alpha: alpha * x * y,
        ),
        "plus alpha * y, not minus.": lambda x, y, alpha: add_scaled(x, y, -alpha),
        STORED: lambda x, y, alpha: torch.full_like(x, torch.nan),
    },
    "A5.2": {
        ZEROS: lambda x: row_lse(ways.padded(x, ways.power_of_two(x.shape[1]), 0.0)),
        SUBTRACT: overflowing,
        ADD: lambda x: row_lse(x) - x.amax(-1),
        MASK: (
            lambda x: ways.unmasked(x, ways.power_of_two(x.shape[1])),
            lambda x: ways.unmasked(x, ways.power_of_two(x.shape[1]), safe=False),
        ),
        STORED: lambda x: torch.full((len(x),), torch.nan),
        THERE: (
            ways.first_row,
            lambda x: ways.rows_apart(x, ways.power_of_two(x.shape[1])),
            lambda x: ways.rows_apart(x, 1),
        ),
        "each program writes its own number: out + row.": ways.only_first_written,
        NO_LOG: (lambda x: x.exp().sum(-1), lambda x: (x - x.amax(-1)[:, None]).exp().sum(-1)),
        NOT_LARGEST: lambda x: x.amax(-1),
        "a natural logarithm: tl.log, not tl.log2.": (
            lambda x: x.amax(-1) + (row_lse(x) - x.amax(-1)) / math.log(2),
            lambda x: row_lse(x) / math.log(2),
        ),
        NOT_MEAN: (
            lambda x: row_lse(x) - math.log(x.shape[1]),
            lambda x: row_lse(x) - math.log(ways.power_of_two(x.shape[1])),
        ),
    },
    "A5.3": {
        SHRINK: (
            ways.carried(shrink=lambda old, new: 1.0),
            ways.carried(shrink=lambda old, new: 1.0, guard=False, end=False),
        ),
        "the factor is exp(old - new), which is at most one, not exp(new - old).": (
            ways.carried(shrink=lambda old, new: (new - old).exp()),
            ways.carried(shrink=lambda old, new: (new - old).exp(), guard=False, end=False),
        ),
        BLIND: (ways.carried(guard=False, end=False), ways.carried(guard=False)),
        FROM_ZERO: ways.carried(start=0.0),
        SUBTRACT: overflowing,
        "the maximum of all that was read, not of the last tile.": (
            ways.carried(higher=lambda old, new: new),
            ways.carried(higher=lambda old, new: new, guard=False, end=False),
        ),
        "keep the new maximum for the next tile: largest = higher.": ways.carried(keep=False),
        ADD: (ways.carried(add=False), lambda x: row_lse(x) - x.amax(-1)),
        "only the first tile is counted.": lambda x: row_lse(x[:, : ways.TILE]),
        "only the last tile is counted.": (
            lambda x: row_lse(x.split(ways.TILE, 1)[-1]),
            lambda x: x.amax(-1) + (x.split(ways.TILE, 1)[-1] - x.amax(-1)[:, None]).exp().sum(-1).log(),
        ),
        ZEROS: (
            lambda x: row_lse(ways.padded(x, ways.TILE, 0.0)),
            lambda x: overflowing(ways.padded(x, ways.TILE, 0.0)),
        ),
        MASK: (
            lambda x: ways.unmasked(x, x.shape[1] + -x.shape[1] % ways.TILE),
            lambda x: ways.unmasked(x, x.shape[1] + -x.shape[1] % ways.TILE, safe=False),
        ),
        THERE: ways.first_row,
        NO_LOG: lambda x: x.exp().sum(-1),
        NOT_LARGEST: lambda x: x.amax(-1),
    },
    "A5.4": {
        "subtract the larger log-sum-exp before tl.exp.": (
            ways.merged(ways.naive, ways.naive_lse),
            ways.merged(ways.naive, ways.naive_lse, guard=(False, False)),
            ways.merged(
                lambda a, b: (a.exp() / (a.exp() + b.exp()), b.exp() / (a.exp() + b.exp())), ways.naive_lse
            ),
            ways.merged(
                lambda a, b: (a.exp() / (a.exp() + b.exp()), b.exp() / (a.exp() + b.exp())),
                ways.naive_lse,
                guard=(False, False),
            ),
        ),
        "zero times NaN is NaN: use tl.where on the product.": (
            ways.merged(guard=(False, False)),
            ways.merged(guard=(True, False)),
            ways.merged(guard=(False, True)),
        ),
        "-inf minus -inf is NaN: both may be blind. Out is 0 there, lse is -inf.": (
            ways.both_nan,
            lambda *parts: (ways.both_nan(*parts)[0], merge(*parts)[1]),
            lambda *parts: (merge(*parts)[0], ways.both_nan(*parts)[1]),
        ),
        "the weights are exp(l1 - lse) and exp(l2 - lse), not one half.": (
            ways.merged(
                lambda a, b: (torch.full_like(a, 0.5), torch.full_like(b, 0.5)), guard=(False, False)
            ),
            ways.merged(lambda a, b: (torch.full_like(a, 0.5), torch.full_like(b, 0.5))),
            lambda o1, l1, o2, l2: ((o1.nan_to_num() + o2.nan_to_num()) / 2, merge(o1, l1, o2, l2)[1]),
        ),
        "each output goes with the weight of its own log-sum-exp.": (
            lambda o1, l1, o2, l2: (merge(o1, l2, o2, l1)[0], merge(o1, l1, o2, l2)[1]),
            lambda o1, l1, o2, l2: (
                merge(o2.nan_to_num(), l1, o1.nan_to_num(), l2)[0],
                merge(o1, l1, o2, l2)[1],
            ),
            lambda o1, l1, o2, l2: (
                ways.merged(guard=(False, False))(o2, l1, o1, l2)[0],
                merge(o1, l1, o2, l2)[1],
            ),
            ways.swapped,
        ),
        "the weights sum to one: divide by their sum.": (
            ways.merged(lambda a, b: ((a - ways.base(a, b)).exp(), (b - ways.base(a, b)).exp())),
            ways.merged(
                lambda a, b: ((a - ways.base(a, b)).exp(), (b - ways.base(a, b)).exp()), guard=(False, False)
            ),
        ),
        NOT_LARGEST: ways.merged(lse=torch.maximum),
        SUM_OF_EXP: ways.merged(lse=torch.add),
        ADD: ways.merged(lse=lambda a, b: torch.logaddexp(a, b) - ways.base(a, b)),
        NO_LOG: (
            ways.merged(lse=lambda a, b: (a - ways.base(a, b)).exp() + (b - ways.base(a, b)).exp()),
            ways.merged(lse=lambda a, b: a.exp() + b.exp()),
        ),
        "which query? Its output begins at o1 + query * Dv.": (
            lambda *parts: ways.same_rows(*parts, which=(0,)),
            lambda *parts: ways.same_rows(*parts, which=(1,)),
            lambda *parts: ways.same_rows(*parts, which=(0, 1)),
        ),
        "both results are to be stored: out and lse.": (
            lambda *parts: (merge(*parts)[0], torch.full_like(parts[1], torch.nan)),
            lambda *parts: (torch.full_like(parts[0], torch.nan), merge(*parts)[1]),
        ),
    },
    "A5.5": {
        "members are order[offsets[j]] and so on, not the positions themselves.": lambda p, k, order, offsets, s: (
            tilt(p, k, torch.arange(len(order)), offsets, s)
        ),
        "the centroid is a mean under the weights exp(logit - mass), not a plain one.": ways.gathered(
            equal=True
        ),
        NO_SCALE: lambda p, k, order, offsets, s: tilt(p, k, order, offsets, 1.0),
        SHRINK: ways.gathered(mass=False, centroid=False),
        "the centroid has to shrink, too, when the maximum grows.": ways.gathered(centroid=False),
        "the sum of the mass has to shrink, too, when the maximum grows.": ways.gathered(mass=False),
        "the centroid is a mean: divide by the sum of weights.": ways.gathered(divide=False),
        "what lies behind the end of a cluster has a logit of -inf, not of 0.": ways.gathered(behind=0.0),
        "an empty cluster has mass -inf and centroid 0: what do you divide by?": (
            ways.gathered(empty=torch.nan),
            lambda *args: (
                torch.where(tilt(*args)[0].isneginf(), torch.nan, tilt(*args)[0]),
                tilt(*args)[1],
            ),
            lambda *args: (
                torch.where(tilt(*args)[0].isneginf(), torch.nan, tilt(*args)[0]),
                ways.gathered(empty=torch.nan)(*args)[1],
            ),
        ),
        "carry a maximum: subtract it before tl.exp.": ways.gathered(start=0.0, fixed=True),
        FROM_ZERO: ways.gathered(start=0.0),
        ADD: ways.gathered(add=False),
        "only the first tile of a cluster is counted.": ways.gathered(tiles=slice(1)),
        "only the last tile of a cluster is counted.": ways.gathered(tiles=slice(-1, None)),
        "cluster j goes from offsets[j] to offsets[j + 1].": (
            ways.other_members(lambda offsets: (0 * offsets[1:], offsets[1:])),
            ways.other_members(lambda offsets: (offsets[:-1], 0 * offsets[1:] + offsets[-1])),
        ),
    },
    "A5.8": {
        "the strides say how far it is from row to row and from column to column.": (
            lambda x, M, N, rs, cs: row_lse(x[: M * N].view(M, N))
        ),
        "the two strides are swapped.": lambda x, M, N, rs, cs: ways.any_layout(x, M, N, cs, rs),
        "the column has its stride as well: i * column_stride.": lambda x, M, N, rs, cs: ways.any_layout(
            x, M, N, rs, 1
        ),
        "the row has its stride as well: row * row_stride.": (
            lambda x, M, N, rs, cs: ways.any_layout(x, M, N, N, cs),
            lambda x, M, N, rs, cs: ways.any_layout(x, M, N, 1, cs),
            lambda x, M, N, rs, cs: ways.any_layout(x, M, N, 0, cs),
        ),
        ZEROS: lambda x, M, N, rs, cs: row_lse(
            ways.padded(torch.as_strided(x, (M, N), (rs, cs)), ways.power_of_two(N), 0.0)
        ),
        STORED: lambda x, M, N, rs, cs: torch.full((M,), torch.nan),
        SUBTRACT: lambda x, M, N, rs, cs: overflowing(torch.as_strided(x, (M, N), (rs, cs))),
        ADD: lambda x, M, N, rs, cs: (
            ways.any_layout(x, M, N, rs, cs) - torch.as_strided(x, (M, N), (rs, cs)).amax(-1)
        ),
    },
}
