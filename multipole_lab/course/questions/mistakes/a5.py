"""Assignment 5, Triton kernels: the usual mistakes, and what to say of each."""

from __future__ import annotations

import torch

from multipole_lab.course.questions.answers.a5 import add_scaled, merge, row_lse, tilt
from multipole_lab.course.questions.mistakes import a1_merging as a1


def _first_tile(x, y, alpha):
    """Every program does the first tile."""
    out = torch.full_like(x, torch.nan)
    out[:16] = add_scaled(x, y, alpha)[:16]
    return out


def _padded_with_zeros(x):
    """The row sticks out of a tile that is filled up with zeros."""
    width = 1 << (x.shape[1] - 1).bit_length()
    return row_lse(torch.nn.functional.pad(x, (0, width - x.shape[1])))


def _unshrunk(x):
    largest, total = x[:, :16].amax(1), 0.0
    for tile in x.split(16, 1):
        largest = torch.maximum(largest, tile.amax(1))
        total = total + (tile - largest[:, None]).exp().sum(1)
    return largest + total.log()


def _unguarded(x):
    """exp(-inf - -inf) in a tile of nothing but -inf."""
    largest, total = torch.full((len(x),), -torch.inf), torch.zeros(len(x))
    for tile in x.split(16, 1):
        higher = torch.maximum(largest, tile.amax(1))
        total = total * (largest - higher).exp() + (tile - higher[:, None]).exp().sum(1)
        largest = higher
    return largest + total.log()


def _naive_merge(o1, l1, o2, l2):
    return a1.naive_merge([(o1, l1), (o2, l2)])


def _nan_merge(o1, l1, o2, l2):
    return a1.nan_merge([(o1, l1), (o2, l2)])


def _unordered(p, k, order, offsets, s):
    return tilt(p, k, torch.arange(len(order)), offsets, s)


def _plain(p, k, order, offsets, s):
    return tilt(p, k, order, offsets, s)[0], tilt(0 * p, k, order, offsets, s)[1]


MISTAKES = {
    "A5.1": {
        "which program are you? tl.program_id(0) * BLOCK is where its tile begins.": _first_tile,
        "did you forget alpha?": lambda x, y, alpha: x + y,
        "was anything stored?": lambda x, y, alpha: torch.full_like(x, torch.nan),
    },
    "A5.2": {
        "zeros behind the row count as logits: fill up with -inf.": _padded_with_zeros,
        "subtract the largest logit before tl.exp.": lambda x: x.exp().sum(-1).log(),
        "what you subtracted has to be added again.": lambda x: row_lse(x) - x.amax(-1),
        "NaN comes from behind the end of the row: mask the load.": lambda x: torch.full(
            (len(x),), torch.nan
        ),
    },
    "A5.3": {
        "when the maximum grows, what you carry has to shrink: multiply it by exp(old - new).": _unshrunk,
        "-inf minus -inf is NaN: what if a tile holds nothing but -inf?": _unguarded,
        "only the first tile is counted.": lambda x: row_lse(x[:, :16]),
        "only the last tile is counted.": lambda x: row_lse(x.split(16, 1)[-1]),
    },
    "A5.4": {
        "subtract the larger log-sum-exp before tl.exp.": _naive_merge,
        "zero times NaN is NaN: use tl.where on the product.": _nan_merge,
        "the weights are exp(l1 - lse) and exp(l2 - lse), not one half.": lambda o1, l1, o2, l2: (
            (o1 + o2) / 2,
            merge(o1, l1, o2, l2)[1],
        ),
    },
    "A5.5": {
        "members are order[offsets[j]] and so on, not the positions themselves.": _unordered,
        "the centroid is a mean under the weights exp(logit - mass), not a plain one.": _plain,
        "did you forget the scale?": lambda p, k, order, offsets, s: tilt(p, k, order, offsets, 1.0),
    },
    "A5.8": {
        "the strides say how far it is from row to row and from column to column.": lambda x, M, N, rs, cs: (
            row_lse(x.view(M, N))
        ),
    },
}
