"""What one decoding step takes on this machine: over all keys, and over a clustered cache, in turns."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.shared import Shared
from multipole_lab.decoding.step.reference import decode_step
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.measure.timing import interleaved


@torch.inference_mode()
def step_times(
    q: Float[Tensor, "1 Hq N D"],
    k: Float[Tensor, "1 Hk N D"],
    v: Float[Tensor, "1 Hk N Dv"],
    settings: Settings,
    scale: float | None = None,
    repeats: int = 15,
) -> dict[str, float]:
    """Time the last query's step; what clustering the keys took is another matter, and not in it.

    Parameters
    ----------
    q, k, v : one layer. All but the last query only say which keys there are.
    settings : of the cache. scale : of the logits, by default 1 / sqrt(D). repeats : turns of each side.

    Returns
    -------
    Median milliseconds of ``"exact"`` and ``"clustered"``.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # The query heads of a key head are rows of one product, as they are in the model.
    grouped = q[:, :, -1:].reshape(1, k.shape[1], -1, q.shape[-1])
    store, last, work = Hierarchy(replace(settings, dense_until=0)), q[:, :, -1:], Shared().work(q.device)
    store.append(k, v)
    store.watch(last)
    store.join()
    state, budget = store.state(), min(settings.tokens(store.length), store.clustered)
    fine = store.levels[0].keys.length if store.levels else 0
    options = {"scale": scale, "budget": budget, "replacement": settings.replacement, "work": work}
    sides = {
        "exact": lambda: scaled_dot_product_attention(grouped, k, v, scale=scale),
        "clustered": lambda: decode_step(last, state, lookups=settings.looked_at(fine, budget), **options),
    }
    return interleaved(sides, repeats, warmup=2)
