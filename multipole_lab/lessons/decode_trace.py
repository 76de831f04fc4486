"""A few decoding steps over a clustered cache of captured keys: what each read exactly, and how well that did."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.step.trace import Seen, traced
from multipole_lab.decoding.store.hierarchy import Hierarchy


@dataclass(frozen=True)
class StepRecord:
    """One decoding step of one key head.

    Attributes
    ----------
    position : of the query in the text; it sees the keys up to its own.
    chosen : positions of the keys of opened clusters, ascending; these were summed exactly.
    weight : [len(chosen)]. Their true softmax weights, mean over the queries of the group.
    sinks : how many first keys are exact. tail : from this position on keys are exact.
    clusters, opened : how many clusters there are, and how many of them were opened.
    mass : the true share of the softmax mass on all keys that were read exactly, 0 to 1.
    error : squared error of the output over the squared output, mean over the queries of the group.
    """

    position: int
    chosen: Int[np.ndarray, " M"]
    weight: Float[np.ndarray, " M"]
    sinks: int
    tail: int
    clusters: int
    opened: int
    mass: float
    error: float

    @property
    def read(self) -> int:
        """How many keys were read exactly: sinks, members of opened clusters, and all from ``tail`` on."""
        return self.sinks + len(self.chosen) + self.position + 1 - self.tail


@torch.inference_mode()
def decode_trace(
    q: Float[Tensor, "1 G N D"],
    k: Float[Tensor, "1 1 N D"],
    v: Float[Tensor, "1 1 N Dv"],
    settings: Settings,
    steps: int = 24,
    scale: float | None = None,
) -> list[StepRecord]:
    """Decode the last ``steps`` of N positions one by one, after the others as a prompt, and record each step.

    As ``MultipoleCache`` does it for one layer: keys join the clusters when enough of them have left the recent
    window, in the metric of the queries just seen, and the queries of the group choose together.

    Raises
    ------
    ValueError : steps outside 1..N - 1.
    """
    N, G = q.shape[2], q.shape[1]
    if not 1 <= steps < N:
        raise ValueError(f"steps: 1 to {N - 1:,} is allowed for {N:,} tokens, got {steps:,}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    store = Hierarchy(
        replace(settings, dense_until=0)
    )  # clusters are the lesson, whether or not they pay yet
    store.append(k[:, :, : N - steps], v[:, :, : N - steps])
    records = []
    for t in range(N - steps, N):
        query, *new = (x[:, :, t : t + 1] for x in (q, k, v))
        out, seen = take_step(store, query, *new, scale)
        step = traced(0, store, seen, G)
        weights = (scale * q[0, :, t] @ k[0, 0, : t + 1].T).softmax(-1)  # [G, t + 1]
        exact = weights @ v[0, 0, : t + 1]
        wrong = (out[0, :, 0] - exact).square().sum(-1) / exact.square().sum(-1).clamp(min=1e-30)
        chosen = np.sort(step.chosen[0, 0][step.chosen[0, 0] >= 0])
        mean = weights.mean(0).numpy()
        sinks = step.sinks.shape[1]
        records.append(
            StepRecord(
                position=t,
                chosen=chosen,
                weight=mean[chosen],
                sinks=sinks,
                tail=step.tail,
                clusters=step.opened.shape[-1],
                opened=int(step.opened[0, 0].sum()),
                mass=float(mean[step.exact()[0, 0]].sum()),
                error=float(wrong.mean()),
            )
        )
    return records


def take_step(
    store: Hierarchy,
    q: Float[Tensor, "1 Hq 1 D"],
    k: Float[Tensor, "1 Hk 1 D"],
    v: Float[Tensor, "1 Hk 1 Dv"],
    scale: float,
) -> tuple[Float[Tensor, "1 Hq 1 Dv"], Seen]:
    """One decoding step over the keys in ``store``, to which the new one is added: its output and what was read."""
    s = store.settings
    store.append(k, v)
    store.watch(q)
    if store.due():
        store.join()
    seen, budget = Seen(), s.tokens(store.length)
    fine = store.levels[0].keys.length if store.levels else 0
    out, _ = decode_step(
        q, store.state(), scale=scale, budget=min(budget, store.clustered), lookups=s.looked_at(fine, budget),
        replacement=s.replacement, top_p=s.top_p, seen=seen,
    )  # fmt: skip
    return out, seen
