"""Assignment 5: Triton kernels. What is right (in torch, which they may not use), and what usually goes wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions import a1_answers
from multipole_lab.course.questions.question import Question, Random

# --- right ------------------------------------------------------------------------------------------


def add_scaled(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    return torch.add(x.double(), y.double(), alpha=alpha)


def row_lse(x: Tensor) -> Tensor:
    return x.double().logsumexp(-1)


def merge(o1: Tensor, l1: Tensor, o2: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    return a1_answers.merge([(o1, l1), (o2, l2)])


def tilt(p: Tensor, k: Tensor, order: Tensor, offsets: Tensor, s: float) -> tuple[Tensor, Tensor]:
    mass, centroid = [], []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        members = k[order[begin:end]].double()
        logits = s * members @ p.double()
        mass.append(logits.logsumexp(0))
        centroid.append(logits.softmax(0) @ members)
    return torch.stack(mass), torch.stack(centroid)


def strided_lse(storage: Tensor, M: int, N: int, row_stride: int, column_stride: int) -> Tensor:
    return row_lse(torch.as_strided(storage, (M, N), (row_stride, column_stride)))


# --- wrong ----------------------------------------------------------------------------------------


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
    return a1_answers.naive_merge([(o1, l1), (o2, l2)])


def _nan_merge(o1, l1, o2, l2):
    return a1_answers.nan_merge([(o1, l1), (o2, l2)])


def _unordered(p, k, order, offsets, s):
    return tilt(p, k, torch.arange(len(order)), offsets, s)


def _plain(p, k, order, offsets, s):
    return tilt(p, k, order, offsets, s)[0], tilt(0 * p, k, order, offsets, s)[1]


def _clusters(r: Random, sizes: list[int], D: int, size: float = 1.0) -> tuple:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return size * r(D), r(sum(sizes), D), r.permutation(sum(sizes)), offsets, 0.6


def _masked(r: Random, count: int) -> Tensor:
    x = r(2, 45)
    x[:, :count] = -torch.inf
    return x


QUESTIONS = {
    "A5.1": Question(
        lambda r: [("whole tiles", (r(32), r(32), 1.5)), ("a tile that sticks out", (r(21), r(21), -0.5))],
        add_scaled,
        {
            "which program are you? tl.program_id(0) * BLOCK is where its tile begins.": _first_tile,
            "did you forget alpha?": lambda x, y, alpha: x + y,
            "was anything stored?": lambda x, y, alpha: torch.full_like(x, torch.nan),
        },
        tol=1e-3,
    ),
    "A5.2": Question(
        lambda r: [
            ("rows that fill the tile", (r(3, 8),)),
            ("rows that do not", (r(3, 5) - 1,)),
            ("large logits", (300 * r(3, 6) - 200,)),
        ],
        row_lse,
        {
            "zeros behind the row count as logits: fill up with -inf.": _padded_with_zeros,
            "subtract the largest logit before tl.exp.": lambda x: x.exp().sum(-1).log(),
            "what you subtracted has to be added again.": lambda x: row_lse(x) - x.amax(-1),
            "NaN comes from behind the end of the row: mask the load.": lambda x: torch.full(
                (len(x),), torch.nan
            ),
        },
        tol=1e-3,
    ),
    "A5.3": Question(
        lambda r: [
            ("one tile", (r(2, 16),)),
            ("several tiles", (r(2, 40),)),
            ("logits that grow", (torch.arange(45.0).repeat(2, 1) * 3,)),
            ("a row that begins with masked keys", (_masked(r, 33),)),
            ("nothing but masked keys", (_masked(r, 45),)),
        ],
        row_lse,
        {
            "when the maximum grows, what you carry has to shrink: multiply it by exp(old - new).": _unshrunk,
            "-inf minus -inf is NaN: what if a tile holds nothing but -inf?": _unguarded,
            "only the first tile is counted.": lambda x: row_lse(x[:, :16]),
            "only the last tile is counted.": lambda x: row_lse(x.split(16, 1)[-1]),
        },
        tol=1e-3,
        hint="do two tiles of two numbers by hand.",
    ),
    "A5.4": Question(
        lambda r: [
            ("ordinary parts", (r(3, 4), r(3), r(3, 4), r(3))),
            ("a width that is no power of two", (r(3, 5), r(3), r(3, 5), r(3))),
            ("large log-sum-exps", (r(3, 4), r(3) + 500, r(3, 4), r(3) + 500)),
            ("a blind part", (torch.full((2, 3), torch.nan), torch.full((2,), -torch.inf), r(2, 3), r(2))),
        ],
        merge,
        {
            "subtract the larger log-sum-exp before tl.exp.": _naive_merge,
            "zero times NaN is NaN: use tl.where on the product.": _nan_merge,
            "the weights are exp(l1 - lse) and exp(l2 - lse), not one half.": lambda o1, l1, o2, l2: (
                (o1 + o2) / 2,
                merge(o1, l1, o2, l2)[1],
            ),
        },
        tol=1e-3,
    ),
    "A5.5": Question(
        lambda r: [
            ("clusters of one tile", _clusters(r, [8, 8], 4)),
            ("ragged clusters", _clusters(r, [3, 11, 20], 6)),
            ("large logits", _clusters(r, [9, 4], 4, 150.0)),
            ("an empty cluster", _clusters(r, [5, 0, 9], 4)),
        ],
        tilt,
        {
            "members are order[offsets[j]] and so on, not the positions themselves.": _unordered,
            "the centroid is a mean under the weights exp(logit - mass), not a plain one.": _plain,
            "did you forget the scale?": lambda p, k, order, offsets, s: tilt(p, k, order, offsets, 1.0),
        },
        tol=1e-3,
        hint="first the mass alone: it is A5.3 with logits that you compute yourself.",
    ),
    "A5.8": Question(
        lambda r: [("contiguous", (r(12), 3, 4, 4, 1)), ("transposed", (r(15), 5, 3, 1, 5))],
        strided_lse,
        {
            "the strides say how far it is from row to row and from column to column.": lambda x, M, N, rs, cs: (
                row_lse(x.view(M, N))
            ),
        },
        tol=1e-3,
    ),
}
