"""Sliding-window attention with sinks: the baseline that forgets what is in between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from multipole_lab.attention.calls.backend import use_triton
from multipole_lab.attention.calls.padding import without_gaps
from multipole_lab.attention.calls.replay import repeating
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.checks import check_count

# Queries a block: wide enough for efficient products, narrow enough that little outside the window is computed.
BLOCK = 256


@dataclass(frozen=True)
class Window(Method):
    """Each query sees the ``size`` keys nearest to its position and the first ``sinks`` keys; the rest is dropped.

    Causal: the last ``size`` keys up to its own. Full attention: ``size // 2`` to the left, the rest from its own
    position on. Where Nq < Nk the queries are the last Nq positions in both. Time O(N size).

    Parameters
    ----------
    size : keys in the window, the query's own included, at least 1.
    sinks : leading keys that every query sees (StreamingLLM, 2309.17453), at least 0.

    On a GPU it is one kernel, which reads no tile of keys outside the window, forward and backward.
    """

    size: int = 512
    sinks: int = 4

    def __post_init__(self) -> None:
        check_count("size", self.size, 1)
        check_count("sinks", self.sinks, 0)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        if q.shape[2] > k.shape[2]:  # no mask says which of the queries before all keys are padding
            return self._windowed(q, k, v, scale, mask, causal=False)
        attend = partial(self._windowed, causal=False)
        return without_gaps(attend, q, k, v, scale, mask, causal=False, last=True)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        attend = partial(self._windowed, causal=True)
        return without_gaps(attend, q, k, v, scale, mask, causal=True, last=True)

    def _windowed(self, q, k, v, scale, mask, causal: bool) -> Partial:
        """Blocks of queries, each over the span of keys that its windows cover, with the band masked."""
        Nq, Nk = q.shape[2], k.shape[2]
        ahead = 0 if causal else self.size - self.size // 2 - 1
        behind = self.size - 1 - ahead
        shift, sinks = Nk - Nq, min(self.sinks, Nk)
        if use_triton("auto", q, v):
            from multipole_lab.kernels.common.visible import Band
            from multipole_lab.kernels.exact.leaf import leaf

            band = Band(behind, ahead, sinks)
            return leaf(q, k, v, scale, causal, mask, band=band, run=repeating(q))
        outs, lses = [], []
        for first in range(0, Nq, BLOCK):
            last = min(first + BLOCK, Nq)
            position = torch.arange(first + shift, last + shift, device=q.device)[:, None]
            low = max(sinks, first + shift - behind)
            high = max(low, min(Nk, last + shift + ahead))
            column = torch.cat(
                [torch.arange(sinks, device=q.device), torch.arange(low, high, device=q.device)]
            )
            seen = (column >= position - behind) & (column <= position + ahead)
            seen |= (column < sinks) & (column <= position) if causal else column < sinks
            seen = seen[None] if mask is None else seen[None] & mask[:, None, column]
            out, lse = exact_partial(q[:, :, first:last], k[:, :, column], v[:, :, column], scale, mask=seen)
            outs.append(out)
            lses.append(lse)
        return torch.cat(outs, 2), torch.cat(lses, 2)
