"""Assignment 2, clustering keys: ways of computing something else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from multipole_lab.course.questions.answers.a2 import (
    assign,
    capped,
    causal_weights,
    farthest_first,
    spread,
    strongest,
    update,
)

# --- assigning and averaging ------------------------------------------------------------------------


def nearest(distance: Callable) -> Callable:
    """Labels by another distance [N, C]."""
    return lambda x, c: distance(x.double(), c.double()).argmin(1)


def means(of: Callable, empty: Callable = lambda old: old) -> Callable:
    """Centroids by another rule of (members, N, C), and by another one for empty clusters."""

    def answer(x, labels, c):
        rows = [x[labels == j].double() for j in range(len(c))]
        return torch.stack(
            [of(r, len(x), len(c)) if len(r) else empty(old) for r, old in zip(rows, c.double(), strict=True)]
        )

    return answer


def nan_update(x, labels, centroids):
    return torch.stack([x[labels == j].mean(0) for j in range(len(centroids))])


def stale_labels(x, centroids, iterations):
    labels = assign(x, centroids)
    for _ in range(iterations):
        labels = assign(x, centroids)
        centroids = update(x, labels, centroids)
    return labels, centroids


def one_assignment(x, centroids, iterations):
    labels = assign(x, centroids)
    for _ in range(iterations):
        centroids = update(x, labels, centroids)
    return assign(x, centroids), centroids


# --- limits -----------------------------------------------------------------------------------------


def pairs_by(distance: Callable, descending: bool = False) -> Callable:
    """The nearest pairs first by another distance [N, C]."""

    def answer(x, c, limit):
        pairs = distance(x.double(), c.double())
        labels, free = torch.full((len(x),), -1), [limit] * len(c)
        for pair in pairs.flatten().argsort(descending=descending).tolist():
            key, cluster = divmod(pair, len(c))
            if labels[key] < 0 and free[cluster] > 0:
                labels[key] = cluster
                free[cluster] -= 1
        return labels

    return answer


def in_turn(order: Callable, choose: Callable) -> Callable:
    """Key after key, in an order by distances [N, C], takes what is chosen of (its distances, places left)."""

    def answer(x, c, limit):
        d = torch.cdist(x.double(), c.double())
        labels, free = torch.full((len(x),), -1), torch.full((len(c),), limit)
        for key in order(d):
            labels[key] = choose(d[key], free)
            free[labels[key]] -= 1
        return labels

    return answer


def nearest_free(distances: Tensor, free: Tensor) -> int:
    return int(distances.masked_fill(free < 1, torch.inf).argmin())


def next_free(distances: Tensor, free: Tensor) -> int:
    nearest = int(distances.argmin())
    return next(j % len(free) for j in range(nearest, nearest + len(free)) if free[j % len(free)] > 0)


def cluster_by_cluster(x, c, limit):
    d = torch.cdist(x.double(), c.double())
    labels = torch.full((len(x),), -1)
    for j in range(len(c)):
        near = d[:, j].masked_fill(labels >= 0, torch.inf).argsort()[:limit]
        labels[near[labels[near] < 0]] = j
    return labels


def moving(stops: bool) -> Callable:
    """A key that has a cluster moves on with every later pair; some stop after N placements."""

    def answer(x, c, limit):
        labels, free = torch.full((len(x),), -1), [limit] * len(c)
        for pair in torch.cdist(x.double(), c.double()).flatten().argsort().tolist():
            key, cluster = divmod(pair, len(c))
            if free[cluster] > 0 and not (stops and sum(free) == limit * len(c) - len(x)):
                labels[key] = cluster
                free[cluster] -= 1
        return labels

    return answer


def squared(x, c):
    return torch.cdist(x, c).square()


# --- sinks and counts -------------------------------------------------------------------------------


def sink(share: Callable) -> Callable:
    """The strongest by another share [N] of the causal weights [N, N]."""
    return lambda q, k, scale: strongest(share(causal_weights(q, k, scale)))


def sink_of(weights: Callable) -> Callable:
    """The strongest by other weights, of (logits, mask of hidden keys)."""

    def answer(q, k, scale):
        hidden = torch.ones(len(q), len(k)).triu(1).bool()
        return strongest(weights(scale * q.double() @ k.double().T, hidden).mean(0))

    return answer


def first_count(fits: Callable, none: Callable = lambda counts: None) -> Callable:
    """The first number of clusters whose spread, measured around the mean, fits: of (spread, asked share, x)."""

    def answer(x, counts, share):
        centre = x.double().mean(0)
        return next((c for c in counts if fits(spread(x, c, centre), share, x)), none(counts))

    return answer


def around_zero(x, counts, share):
    return next((count for count in counts if spread(x, count, 0.0) <= share), None)


def closest(x, counts, share):
    return min(counts, key=lambda count: abs(spread(x, count, x.double().mean(0)) - share))


def total(x: Tensor) -> float:
    return float((x - x.mean(0)).square().sum())


def chain(update_rule: Callable, pick: Callable = torch.argmax) -> Callable:
    """Starting keys by another running distance, of (distance so far [N], distance from the last one [N])."""

    def answer(x, C, first):
        def away(key):
            return (x.double() - x[key].double()).square().sum(1)

        chosen, far = [first], away(first)
        for _ in range(C - 1):
            chosen.append(int(pick(far)))
            far = update_rule(far, away(chosen[-1]))
        return torch.tensor(chosen)

    return answer


def far_from_first(x, C, first):
    return torch.cat(
        [torch.tensor([first]), (x - x[first]).square().sum(1).argsort(descending=True, stable=True)[: C - 1]]
    )


def last_largest(far: Tensor) -> int:
    return len(far) - 1 - int(far.flip(0).argmax())


def next_farthest(x: Tensor, C: int, first: int) -> Tensor:
    """The one after C, [1]; where all are chosen, the first."""
    chosen = x[farthest_first(x, C, first)]
    return squared(x.double(), chosen.double()).amin(1).argmax()[None]


def last_enough(x, counts, share):
    centre = x.double().mean(0)
    return next((c for c in reversed(counts) if spread(x, c, centre) <= share), None)


def short(x, c, limit):
    labels = capped(x, c, limit - 1) if len(x) <= len(c) * (limit - 1) else None
    return pairs_by(torch.cdist)(x, c, limit - 1) if labels is None else labels


def wrong_divmod(x, c, limit):
    labels, free = torch.full((len(x),), -1), [limit] * len(c)
    for pair in torch.cdist(x.double(), c.double()).flatten().argsort().tolist():
        key, cluster = divmod(pair, len(x))
        if labels[key] < 0 and free[cluster] > 0:
            labels[key] = cluster
            free[cluster] -= 1
    return labels


def strict_nan(q, k, scale):
    hidden = torch.ones(len(q), len(k)).triu().bool()
    return strongest((scale * q.double() @ k.double().T).masked_fill(hidden, -torch.inf).softmax(1).mean(0))


def strict_skipped(q, k, scale):
    hidden = torch.ones(len(q), len(k)).triu().bool()
    weights = (scale * q.double() @ k.double().T).masked_fill(hidden, -torch.inf).softmax(1)
    return strongest(weights.nan_to_num().mean(0))
