"""Assignment 4, the causal hierarchy and its cost: ways of computing something else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a4 import hierarchical, plan, work

Block = tuple[int, int, int, int]


def changed_plan(change: Callable) -> Callable:
    """Every block by another rule, which gives a list of blocks."""
    return lambda n, leaf: sorted(new for block in plan(n, leaf) for new in change(*block))


def cut_at(middle: Callable, small: Callable = lambda size, leaf: size <= max(leaf, 1)) -> Callable:
    """The plan with another place of the cut, of (start, stop), or with other leaves."""

    def answer(n, leaf):
        waiting, blocks = [(0, n)], []
        while waiting:
            start, stop = waiting.pop()
            between = middle(start, stop)
            if small(stop - start, leaf) or not start < between < stop:
                blocks.append((start, stop, start, stop))
                continue
            waiting += [(start, between), (between, stop)]
            blocks.append((between, stop, start, between))
        return sorted(blocks)

    return answer


def unsorted_plan(*order: str) -> Callable:
    """The list in the order in which a recursion writes it: of its two halves and its square."""

    def answer(n, leaf):
        blocks: list[Block] = []

        def cut(start: int, stop: int) -> None:
            if stop - start <= max(leaf, 1):
                blocks.append((start, stop, start, stop))
                return
            middle = start + (stop - start + 1) // 2
            for step in order:
                if step == "square":
                    blocks.append((middle, stop, start, middle))
                else:
                    cut(*((start, middle) if step == "left" else (middle, stop)))

        cut(0, n)
        return blocks

    return answer


def counted(leaf: Callable, other: Callable = lambda ones: ones, add: bool = True, by: int = 0) -> Callable:
    """A coverage in which leaves or other blocks count in another way; ``by``: how far the ends lie off."""

    def answer(blocks, n):
        count = torch.zeros(n, n, dtype=torch.int64)
        for q0, q1, k0, k1 in blocks:
            rows, columns = slice(q0, max(q1 + by, q0)), slice(k0, max(k1 + by, k0))
            ones = torch.ones_like(count[rows, columns])
            ones = leaf(ones) if (q0, q1) == (k0, k1) else other(ones)
            count[rows, columns] = count[rows, columns] + ones if add else ones
        return count

    return answer


def run(
    source: Callable = lambda logit, m, chunk: logit + math.log(m),
    key: Callable = lambda rows: rows.mean(0),
    value: Callable = lambda rows, block: rows.mean(0),
    diagonal: int = 1,
    pieces: Callable = lambda k0, k1, chunk: [(i, min(i + chunk, k1)) for i in range(k0, k1, chunk)],
    squares: bool = True,
    leaves: bool = True,
    merge: str = "",
    scaled: bool = True,
) -> Callable:
    """The hierarchy with other sources, pieces, masks, or another way to put the blocks together."""

    def answer(q, k, v, scale, leaf, chunk):
        q, k, v = q.double(), k.double(), v.double()
        done: list[list[tuple[Tensor, Tensor]]] = [[] for _ in q]
        for q0, q1, k0, k1 in plan(len(q), leaf):
            here = q[q0:q1] * (scale if scaled else 1.0)
            if q0 == k0 and leaves:
                hidden = torch.ones(q1 - q0, q1 - q0).triu(diagonal).bool()
                logits, values = (here @ k[k0:k1].T).masked_fill(hidden, -torch.inf), v[k0:k1]
            elif q0 != k0 and squares:
                cut = pieces(k0, k1, chunk)
                columns = [source(here @ key(k[a:b]), b - a, chunk) for a, b in cut]
                logits = torch.stack(columns, 1)
                values = torch.stack([value(v[a:b], v[k0:k1]) for a, b in cut])
            else:
                continue
            for i in range(q0, q1):
                done[i].append((logits[i - q0].softmax(0) @ values, logits[i - q0].logsumexp(0)))
        return torch.stack([_together(parts, merge, v.shape[1]) for parts in done])

    return answer


def _together(parts: list[tuple[Tensor, Tensor]], merge: str, width: int) -> Tensor:
    if not parts:
        return torch.zeros(width, dtype=torch.float64)
    outs = torch.stack([out for out, _ in parts])
    if merge == "halves":  # each block as much as all before it
        out = outs[0]
        for one in outs[1:]:
            out = (out + one) / 2
        return out
    if merge:
        return {"mean": outs.mean(0), "sum": outs.sum(0), "last": outs[-1], "first": outs[0]}[merge]
    return torch.stack([lse for _, lse in parts]).softmax(0) @ outs


def cost(
    leaf: Callable = lambda m: m * (m + 1) // 2, square: Callable = lambda q, k, C: (q + k) * C
) -> Callable:
    """The work with other counts, of a leaf's positions and of a square's queries, keys and clusters."""
    return lambda n, size, clusters: sum(
        leaf(q1 - q0) if q0 == k0 else square(q1 - q0, k1 - k0, clusters) for q0, q1, k0, k1 in plan(n, size)
    )


def first_length(pays: Callable, lengths: Callable = lambda leaf: (leaf << i for i in range(30))) -> Callable:
    """The first length that pays, of (work, n); 30 doublings at most."""
    return lambda leaf, clusters: next(n for n in lengths(leaf) if pays(work(n, leaf, clusters), n))


def pays(total: int, n: int) -> bool:
    return 2 * total < n * (n + 1)


def error_quarters(rule: Callable, causal: bool = True, scaled: bool = True) -> Callable:
    """Another number for each quarter, of the squared errors, the squares of exact and of approximate outputs [N]."""

    def answer(q, k, v, scale, leaf, chunk):
        hidden = torch.ones(len(q), len(q)).triu(1).bool() & causal
        logits = (scale if scaled else 1.0) * q.double() @ k.double().T
        exact = logits.masked_fill(hidden, -torch.inf).softmax(1) @ v.double()
        guess = hierarchical(q, k, v, scale, leaf, chunk)
        return [
            float(x)
            for x in rule((guess - exact).square().sum(1), exact.square().sum(1), guess.square().sum(1))
        ]

    return answer


def ratios(wrong: Tensor, exact: Tensor, guess: Tensor) -> Tensor:
    return wrong.view(4, -1).sum(1) / exact.view(4, -1).sum(1)


def leaf_by(
    choose: Callable, leaves: Callable = lambda n: [1 << i for i in range((n - 1).bit_length() + 1)]
) -> Callable:
    """The leaf that is chosen from {leaf: work}."""
    return lambda n, clusters: choose({leaf: work(n, leaf, clusters) for leaf in leaves(n)})


def least(costs: dict[int, int]) -> int:
    return min(costs, key=lambda leaf: (costs[leaf], leaf))
