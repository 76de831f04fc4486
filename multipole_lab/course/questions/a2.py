"""Assignment 2: clustering keys. What is right, and what usually goes wrong."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from multipole_lab.course.questions.question import Question, Random

# --- right, by loops over single keys and functions that students have no use for --------------------


def assign(x: Tensor, centroids: Tensor) -> Tensor:
    return torch.cdist(x.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def update(x: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    rows = [
        x[labels == j].double().mean(0) if (labels == j).any() else c.double()
        for j, c in enumerate(centroids)
    ]
    return torch.stack(rows)


def lloyd(x: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    x, centroids = x.double(), centroids.double()
    for _ in range(iterations):
        centroids = update(x, assign(x, centroids), centroids)
    return assign(x, centroids), centroids


def capped(x: Tensor, centroids: Tensor, limit: int) -> Tensor:
    distances = torch.cdist(x.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")
    labels = torch.full((len(x),), -1)
    for _ in range(len(x)):  # strike out rows and columns that are done
        key, cluster = divmod(int(distances.argmin()), distances.shape[1])
        labels[key] = cluster
        distances[key] = torch.inf
        if (labels == cluster).sum() == limit:
            distances[:, cluster] = torch.inf
    return labels


def find_sink(q: Tensor, k: Tensor, scale: float) -> tuple[int, float]:
    return _strongest(_causal(q, k, scale).mean(0))


def enough(x: Tensor, counts: list[int], share: float) -> int | None:
    return next((count for count in counts if _spread(x, count, x.double().mean(0)) <= share), None)


def farthest_first(x: Tensor, C: int, first: int) -> Tensor:
    x, chosen = x.double(), [first]
    for _ in range(C - 1):
        chosen.append(
            int(torch.cdist(x, x[chosen], compute_mode="donot_use_mm_for_euclid_dist").amin(1).argmax())
        )
    return torch.tensor(chosen)


# --- wrong ----------------------------------------------------------------------------------------


def _causal(q, k, scale):
    hidden = torch.ones(len(q), len(k)).triu(1).bool()
    return (scale * q.double() @ k.double().T).masked_fill(hidden, -torch.inf).softmax(1)


def _strongest(share: Tensor) -> tuple[int, float]:
    position = int(share.argmax())
    return position, float(share[position])


def _spread(x, count, origin, iterations=5):
    from multipole_lab import kmeans

    x = x.double()
    clusters = kmeans(x.float()[None, None], clusters=count, iterations=iterations, seed=0)
    inside = (x - clusters.centroids[0, 0][clusters.labels[0, 0]]).square().sum()
    return float(inside / (x - origin).square().sum())


def _around_zero(x, counts, share):
    return next((count for count in counts if _spread(x, count, 0.0) <= share), None)


def _closest(x, counts, share):
    return min(counts, key=lambda count: abs(_spread(x, count, x.double().mean(0)) - share))


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


def _planted(r: Random, N: int, where: int) -> tuple:
    q, k = r(N, 8) + 1.5, r(N, 8)
    k[where] = 2.5
    return q, k, 1 / math.sqrt(8)


def _groups(r: Random, shift: float) -> Tensor:
    return 3 * r(6, 4)[r.integers(0, 6, 90)] + 0.5 * r(90, 4) + shift


QUESTIONS = {
    "A2.1": Question(
        lambda r: [
            ("random keys", (r(20, 4), r(6, 4))),
            (
                "centroids of very different length",
                (r(20, 4), r(6, 4) * torch.tensor([1, 2, 4, 1, 2, 4])[:, None]),
            ),
            ("one centroid", (r(5, 3), r(1, 3))),
            ("ties", (torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))),
        ],
        assign,
        {
            "the largest product is not the smallest distance: what about |c|^2?": lambda x, c: (
                x @ c.T
            ).argmax(1),
            "the nearest, not the farthest.": lambda x, c: torch.cdist(x, c).argmax(1),
            "one label for each key, not for each centroid: which axis?": lambda x, c: torch.cdist(
                x, c
            ).argmin(0),
            "the sign of 2 x.c.": lambda x, c: (c.square().sum(1) + 2 * x @ c.T).argmin(1),
        },
    ),
    "A2.2": Question(
        lambda r: [
            ("every cluster has keys", (r(12, 3), torch.arange(12) % 4, r(4, 3))),
            ("an empty cluster", (r(12, 3), 2 * (torch.arange(12) % 3), r(5, 3))),
        ],
        update,
        {
            "what does a cluster without keys give? Not NaN.": _nan_update,
            "a cluster without keys keeps its old centroid.": _zero_update,
            "a mean, not a sum.": lambda x, labels, c: torch.zeros_like(c).index_add_(0, labels, x),
            "divide by how many keys each cluster has, not by all.": lambda x, labels, c: (
                torch.zeros_like(c).index_add_(0, labels, x) / len(x)
            ),
        },
        tol=1e-3,
    ),
    "A2.3": Question(
        lambda r: [
            ("one round", (r(30, 3), r(4, 3), 1)),
            ("three rounds", (r(30, 3), r(4, 3), 3)),
            ("no round", (r(30, 3), r(4, 3), 0)),
        ],
        lloyd,
        {
            "the labels are of the centroids before the last update.": _stale_labels,
            "one round too many.": lambda x, c, n: lloyd(x, c, n + 1),
            "is the loop run more than once?": lambda x, c, n: lloyd(x, c, min(n, 1)),
        },
        tol=1e-3,
        hint="check A2.1 and A2.2 first.",
    ),
    "A2.4": Question(
        lambda r: [
            ("a limit that nobody feels", (r(15, 3), r(3, 3), 15)),
            ("a limit that some feel", (r(15, 3), r(3, 3), 6)),
            ("every place taken", (r(15, 3), r(3, 3), 5)),
        ],
        capped,
        {
            "is there a limit at all?": lambda x, c, limit: assign(x, c),
            "the nearest pairs first, not the keys in their order.": _in_order,
            "one key too many: stop at the limit, not behind it.": lambda x, c, limit: capped(
                x, c, limit + 1
            ),
        },
    ),
    "A2.5": Question(
        lambda r: [
            ("a sink at the first key", _planted(r, 20, 0)),
            ("a sink elsewhere", _planted(r, 24, 5)),
            ("hardly a sink", (r(15, 4), r(15, 4), 0.5)),
        ],
        find_sink,
        {
            "a query sees no key behind it: where is the mask?": lambda q, k, scale: _strongest(
                (scale * q.double() @ k.double().T).softmax(1).mean(0)
            ),
            "a sum over the queries, that is over rows; not the weights of the last query.": lambda q, k, scale: (
                _strongest(_causal(q, k, scale)[-1])
            ),
            "divide by N, not by the number of queries that see the key.": lambda q, k, scale: _strongest(
                _causal(q, k, scale).sum(0) / torch.arange(len(k), 0, -1)
            ),
            "the share is the sum divided by N.": lambda q, k, scale: _strongest(_causal(q, k, scale).sum(0)),
            "did you forget the scale?": lambda q, k, scale: find_sink(q, k, 1.0),
        },
        tol=1e-3,
    ),
    "A2.6": Question(
        lambda r: [
            (f"at most {share} of the spread inside", (_groups(r, 4.0), [1, 2, 4, 8, 16], share))
            for share in (0.6, 0.1, 1e-4)
        ],
        enough,
        {
            "the spread of all keys is measured around their mean, not around zero.": _around_zero,
            "the first that is enough, not the closest.": _closest,
        },
    ),
    "A2.8": Question(
        lambda r: [
            ("a few of many", (r(20, 3), 5, 2)),
            ("all of them", (r(6, 2), 6, 0)),
            ("only the first", (r(6, 2), 1, 3)),
        ],
        farthest_first,
        {
            "far from the nearest chosen key, not from the first one.": lambda x, C, first: torch.cat(
                [
                    torch.tensor([first]),
                    (x - x[first]).square().sum(1).argsort(descending=True)[: C - 1],
                ]
            ),
        },
    ),
}
