"""Assignment 5, Triton kernels: what a kernel computes that is not right yet, in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a5 import add_scaled, merge, row_lse, tilt

TILE, MEMBERS = 16, 8  # the launchers' BLOCK in questions 1 and 3, and in question 5


def first_tile(x, y, alpha):
    """Every program does the first tile."""
    out = torch.full_like(x, torch.nan)
    out[:TILE] = add_scaled(x, y, alpha)[:TILE]
    return out


def overlapping_tiles(x, y, alpha):
    """Program 1 begins at position 1."""
    out = torch.full_like(x, torch.nan)
    out[: TILE + (len(x) - 1) // TILE] = add_scaled(x, y, alpha)[: TILE + (len(x) - 1) // TILE]
    return out


def padded(x: Tensor, width: int, fill: float) -> Tensor:
    """Rows that are filled up to a multiple of ``width``."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % width), value=fill)


def power_of_two(N: int) -> int:
    return 1 << (N - 1).bit_length()


def first_row(x: Tensor) -> Tensor:
    return row_lse(x[:1]).expand(len(x))


def only_first_written(x: Tensor) -> Tensor:
    """All programs write into the same place: the last one wins."""
    out = torch.full((len(x),), torch.nan, dtype=torch.float64)
    out[0] = row_lse(x[-1:])[0]
    return out


def rows_apart(x: Tensor, step: int, fill: float = torch.nan) -> Tensor:
    """Rows that are read ``step`` numbers apart; behind the end stand NaNs."""
    M, N = x.shape
    memory = torch.cat([x.reshape(-1), torch.full((256 + M * step,), fill)])
    return row_lse(memory.as_strided((M, N), (step, 1)))


def unmasked(x: Tensor, width: int, safe: bool = True) -> Tensor:
    """Each row goes on into the next one, the last one into NaN."""
    memory = torch.cat([x.reshape(-1), torch.full((256,), torch.nan)])
    rows = torch.as_strided(memory, (len(x), width), (x.shape[1], 1))
    return row_lse(rows) if safe else rows.exp().sum(-1).log()


def carried(
    shrink: Callable = lambda old, new: (old - new).exp(),
    start: float = -torch.inf,
    higher: Callable = torch.maximum,
    keep: bool = True,
    guard: bool = True,
    end: bool = True,
    add: bool = True,
    first: bool = True,
) -> Callable:
    """A row in tiles, in float32: what is carried shrinks in another way, or no case is made for -inf."""

    def base(m: Tensor, guarded: bool) -> Tensor:
        return torch.where(m.isneginf(), 0.0, m) if guarded else m

    def answer(x):
        largest, total = torch.full((len(x),), start), torch.zeros(len(x))
        for tile in padded(x, TILE, -torch.inf).split(TILE, 1):
            new = higher(largest, tile.amax(1))
            b = base(new, guard)
            total = total * shrink(largest, b) + (tile - b[:, None]).exp().sum(1)
            largest = new if keep else largest
        return (base(largest, end) if add else 0.0) + total.log()

    return answer


def merged(
    weights: Callable | None = None, lse: Callable | None = None, guard: tuple[bool, bool] = (True, True)
) -> Callable:
    """A merge with other weights of the two outputs or another lse, both of (l1, l2); ``guard`` keeps NaN out."""

    def answer(o1, l1, o2, l2):
        right = merge(o1, l1, o2, l2)
        wa, wb = weights(l1, l2) if weights else (torch.nan_to_num((x - right[1]).exp()) for x in (l1, l2))
        parts = []
        for w, out, guarded in ((wa, o1, guard[0]), (wb, o2, guard[1])):
            product = w[:, None] * out
            parts.append(torch.where(w[:, None] > 0, product, 0.0) if guarded else product)
        return parts[0] + parts[1], right[1] if lse is None else lse(l1, l2)

    return answer


def naive(l1: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    a, b = l1.exp(), l2.exp()
    total = torch.where(a + b > 0, a + b, 1.0)
    return a / total, b / total


def naive_lse(l1: Tensor, l2: Tensor) -> Tensor:
    return (l1.exp() + l2.exp()).log()


def base(l1: Tensor, l2: Tensor) -> Tensor:
    return torch.maximum(l1, l2).nan_to_num(neginf=0.0)


def both_nan(o1, l1, o2, l2):
    out, lse = merge(o1, l1, o2, l2)
    blind = lse.isneginf()
    return torch.where(blind[:, None], torch.nan, out), torch.where(blind, torch.nan, lse)


def same_rows(o1, l1, o2, l2, which: tuple[int, ...]):
    """Every program reads the first row of some of the outputs."""
    outs = [o1, o2]
    for i in which:
        outs[i] = outs[i][:1].expand_as(outs[i])
    return merge(outs[0], l1, outs[1], l2)


def gathered(
    mass: bool = True,
    centroid: bool = True,
    divide: bool = True,
    add: bool = True,
    start: float = -torch.inf,
    fixed: bool = False,
    behind: float | None = None,
    tiles: slice = slice(None),
    empty: float = 0.0,
    equal: bool = False,
) -> Callable:
    """Question 5 in tiles, in float32, with one thing that is not done."""

    def answer(p, k, order, offsets, s):
        masses, centroids = [], []
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            largest, total, pull = torch.tensor(start), torch.tensor(0.0), torch.zeros(k.shape[1])
            for members in list(order[begin:end].split(MEMBERS))[tiles] if end > begin else []:
                keys = k[members]
                x = s * keys @ p
                if behind is not None:
                    x = torch.cat([x, torch.full((MEMBERS - len(x),), behind)])
                    keys = torch.cat([keys, torch.zeros(MEMBERS - len(keys), k.shape[1])])
                higher = largest if fixed else torch.maximum(largest, x.amax())
                shrink, grown = (largest - higher).exp(), (x - higher).exp()
                total = total * (shrink if mass else 1.0) + grown.sum()
                pull = pull * (shrink if centroid else 1.0) + grown @ keys
                largest = higher
            rows = k[order[begin:end]]
            masses.append(
                (largest if add else 0.0) + total.log() if end > begin else torch.tensor(-torch.inf)
            )
            mean = pull / total if divide else pull
            if equal:
                mean = rows.mean(0)
            centroids.append(mean if end > begin else torch.full_like(pull, empty))
        return torch.stack(masses), torch.stack(centroids)

    return answer


def other_members(bounds: Callable) -> Callable:
    """Clusters that begin or end elsewhere, of the offsets: (begin, end) [C]."""

    def answer(p, k, order, offsets, s):
        begins, ends = bounds(offsets)
        pieces = [order[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        sizes = torch.tensor([0, *map(len, pieces)]).cumsum(0)
        return tilt(p, k, torch.cat(pieces), sizes, s)

    return answer


def any_layout(storage: Tensor, M: int, N: int, row_stride: int, column_stride: int) -> Tensor:
    """Strides that reach behind the end read NaN there."""
    memory = torch.cat([storage, torch.full((256 + M * N * 8,), torch.nan)])
    return row_lse(torch.as_strided(memory, (M, N), (row_stride, column_stride)))


def swapped(o1, l1, o2, l2):
    """Each weight at the other output, both looked at where the weight is above zero."""
    return merged(lambda a, b: tuple(torch.nan_to_num((x - torch.logaddexp(a, b)).exp()) for x in (b, a)))(
        o1, l1, o2, l2
    )
