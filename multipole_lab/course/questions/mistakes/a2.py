"""Assignment 2, clustering keys: the usual mistakes, and what to say of each."""

from __future__ import annotations

import torch

from multipole_lab.course.questions.answers.a2 import (
    assign,
    capped,
    causal_weights,
    find_sink,
    lloyd,
    spread,
    strongest,
    update,
)


def _around_zero(x, counts, share):
    return next((count for count in counts if spread(x, count, 0.0) <= share), None)


def _closest(x, counts, share):
    return min(counts, key=lambda count: abs(spread(x, count, x.double().mean(0)) - share))


def _stale_labels(x, centroids, iterations):
    labels = assign(x, centroids)
    for _ in range(iterations):
        labels = assign(x, centroids)
        centroids = update(x, labels, centroids)
    return labels, centroids


def _nan_update(x, labels, centroids):
    return torch.stack([x[labels == j].mean(0) for j in range(len(centroids))])


def _zero_update(x, labels, centroids):
    return torch.nan_to_num(_nan_update(x, labels, centroids))


def _in_order(x, centroids, limit):
    """One key after the other takes its nearest cluster that is not full: first come, first served."""
    distances = torch.cdist(x.double(), centroids.double())
    labels = torch.full((len(x),), -1)
    for key in range(len(x)):
        full = torch.bincount(labels[:key], minlength=len(centroids)) >= limit
        labels[key] = distances[key].masked_fill(full, torch.inf).argmin()
    return labels


MISTAKES = {
    "A2.1": {
        "the largest product is not the smallest distance: what about |c|^2?": lambda x, c: (x @ c.T).argmax(
            1
        ),
        "the nearest, not the farthest.": lambda x, c: torch.cdist(x, c).argmax(1),
        "one label for each key, not for each centroid: which axis?": lambda x, c: torch.cdist(x, c).argmin(
            0
        ),
        "the sign of 2 x.c.": lambda x, c: (c.square().sum(1) + 2 * x @ c.T).argmin(1),
    },
    "A2.2": {
        "what does a cluster without keys give? Not NaN.": _nan_update,
        "a cluster without keys keeps its old centroid.": _zero_update,
        "a mean, not a sum.": lambda x, labels, c: torch.zeros_like(c).index_add_(0, labels, x),
        "divide by how many keys each cluster has, not by all.": lambda x, labels, c: (
            torch.zeros_like(c).index_add_(0, labels, x) / len(x)
        ),
    },
    "A2.3": {
        "the labels are of the centroids before the last update.": _stale_labels,
        "one round too many.": lambda x, c, n: lloyd(x, c, n + 1),
        "is the loop run more than once?": lambda x, c, n: lloyd(x, c, min(n, 1)),
    },
    "A2.4": {
        "is there a limit at all?": lambda x, c, limit: assign(x, c),
        "the nearest pairs first, not the keys in their order.": _in_order,
        "one key too many: stop at the limit, not behind it.": lambda x, c, limit: capped(x, c, limit + 1),
    },
    "A2.5": {
        "a query sees no key behind it: where is the mask?": lambda q, k, scale: strongest(
            (scale * q.double() @ k.double().T).softmax(1).mean(0)
        ),
        "a sum over the queries, that is over rows; not the weights of the last query.": lambda q, k, scale: (
            strongest(causal_weights(q, k, scale)[-1])
        ),
        "divide by N, not by the number of queries that see the key.": lambda q, k, scale: strongest(
            causal_weights(q, k, scale).sum(0) / torch.arange(len(k), 0, -1)
        ),
        "the share is the sum divided by N.": lambda q, k, scale: strongest(
            causal_weights(q, k, scale).sum(0)
        ),
        "did you forget the scale?": lambda q, k, scale: find_sink(q, k, 1.0),
    },
    "A2.6": {
        "the spread of all keys is measured around their mean, not around zero.": _around_zero,
        "the first that is enough, not the closest.": _closest,
    },
    "A2.8": {
        "far from the nearest chosen key, not from the first one.": lambda x, C, first: torch.cat(
            [
                torch.tensor([first]),
                (x - x[first]).square().sum(1).argsort(descending=True)[: C - 1],
            ]
        ),
    },
}
