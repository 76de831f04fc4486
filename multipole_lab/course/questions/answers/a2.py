"""Assignment 2: the right answers, by loops over single keys and functions that students have no use for."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


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
    return strongest(causal_weights(q, k, scale).mean(0))


def enough(x: Tensor, counts: list[int], share: float) -> int | None:
    return next((count for count in counts if spread(x, count, x.double().mean(0)) <= share), None)


def farthest_first(x: Tensor, C: int, first: int) -> Tensor:
    x, chosen = x.double(), [first]
    for _ in range(C - 1):
        chosen.append(
            int(torch.cdist(x, x[chosen], compute_mode="donot_use_mm_for_euclid_dist").amin(1).argmax())
        )
    return torch.tensor(chosen)


def causal_weights(q, k, scale):
    hidden = torch.ones(len(q), len(k)).triu(1).bool()
    return (scale * q.double() @ k.double().T).masked_fill(hidden, -torch.inf).softmax(1)


def strongest(share: Tensor) -> tuple[int, float]:
    position = int(share.argmax())
    return position, float(share[position])


def spread(x: Tensor, count: int, origin: Tensor | float) -> float:
    """What that many clusters leave inside them, over the spread of all keys around some origin."""
    x = x.double()
    return _inside(x.float().numpy().tobytes(), len(x), count) / float((x - origin).square().sum())


@lru_cache(maxsize=1024)
def _inside(keys: bytes, N: int, count: int) -> float:
    from multipole_lab import kmeans

    x = torch.frombuffer(bytearray(keys), dtype=torch.float32).view(N, -1)
    clusters = kmeans(x[None, None], clusters=count, iterations=5, seed=0)
    return float((x.double() - clusters.centroids[0, 0][clusters.labels[0, 0]]).square().sum())
