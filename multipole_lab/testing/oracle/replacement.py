"""Centroid replacement: the expansion at the origin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.testing.oracle.expansion import Summary, expanded, members, summaries
from multipole_lab.testing.oracle.softmax import Partial, exact, merge, softmax_sum


def centroid(
    q: Float[Tensor, "Nq D"],
    k: Float[Tensor, "Nk D"],
    v: Float[Tensor, "Nk Dv"],
    labels: Int[Tensor, " Nk"],
    opened: int | Bool[Tensor, "Nq J"] = 0,
    *,
    s: float,
) -> Partial:
    """Centroid replacement (2506.13059): the expansion at the origin, ``a_j(q) = log n_j + s q.k_j`` of plain means.

    ``opened`` : which clusters each query sums exactly; or a budget of keys, which the clusters of largest mass fill in
    that order, up to the first that does not fit.
    """
    each = members(labels)
    at = summaries(torch.zeros_like(k[:1]), k, v, labels, s)
    logits, values = expanded(q, Summary(at.mass[0], at.key[0], at.value[0]), s)
    if isinstance(opened, int):
        sizes = [len(n) for n in each]
        chosen = [prefix(a.tolist(), sizes, opened) for a in logits]
        opened = torch.stack([torch.tensor([j in one for j in range(len(each))]) for one in chosen]).to(
            q.device
        )
    key_is_opened = opened[:, labels.clamp(min=0)] & (labels >= 0)
    return merge([softmax_sum(logits, values[0], ~opened), exact(q, k, v, s, key_is_opened)])


def prefix(
    worth: Sequence[float],
    sizes: Sequence[int],
    places: int,
    mass: Sequence[float] = (),
    limit: float | None = None,
) -> list[int]:
    """Clusters in order of decreasing worth, the first of equals first, while their members fit into the places.

    With a limit no more are taken as soon as the mass of those taken reaches it. Empty clusters are left out.
    """
    taken, held, reached = [], 0, 0.0
    for j in sorted(range(len(worth)), key=lambda j: -worth[j]):
        if held + sizes[j] > places or (limit is not None and reached >= limit):
            break
        held += sizes[j]
        reached += mass[j] if limit is not None else 0.0
        taken.append(j)
    return [j for j in taken if sizes[j]]
