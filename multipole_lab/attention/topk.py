"""The oracle of selection: the k largest logits of every query, found by computing all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.checks import check_count
from multipole_lab.clustering.clusters import statistics_dtype

# Logits computed at a time, so that memory stays linear in the sequence.
TILE = 1 << 23


@dataclass(frozen=True)
class TopK(Method):
    """Exact attention over the ``keys`` largest logits of each query, the rest dropped.

    No selection of that many keys keeps more softmax mass. It is an oracle, a bound for the error of other methods,
    and no method to be fast with: it computes all O(N^2 D) logits and sorts them, which takes longer than exact
    attention everywhere, on a GPU by far.

    Parameters
    ----------
    keys : how many keys each query keeps, at least 1; more than it sees means all.
    """

    keys: int = 128

    def __post_init__(self) -> None:
        check_count("keys", self.keys, 1)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._select(q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return self._select(q, k, v, scale, mask, causal=True)

    def _select(self, q, k, v, scale, mask, causal: bool) -> Partial:
        B, Hq, Nq, D = q.shape
        Hk, Nk = k.shape[1:3]
        dtype = statistics_dtype(q.dtype)
        qs = q.to(dtype).view(B, Hk, Hq // Hk, Nq, D)
        ks, vs = k.to(dtype).unsqueeze(2), v.to(dtype)
        step = max(1, TILE // (B * Hq * Nk))
        outs, lses = [], []
        for first in range(0, Nq, step):
            logits = scale * qs[:, :, :, first : first + step] @ ks.mT  # [B, Hk, G, n, Nk]
            if mask is not None:
                logits = logits.masked_fill(~mask[:, None, None, None], -torch.inf)
            if causal:
                position = torch.arange(first, min(first + step, Nq), device=q.device)[:, None] + Nk - Nq
                logits = logits.masked_fill(torch.arange(Nk, device=q.device) > position, -torch.inf)
            # A NaN sorts above everything, so a poisoned key is kept, as exact attention keeps it.
            top = logits.topk(min(self.keys, Nk), dim=-1)
            lse = top.values.logsumexp(-1)
            # Relative to the largest and divided by their sum: huge logits leave no digits in exp(logit - lse).
            largest = top.values[..., :1]
            weights = (top.values - torch.where(largest == -torch.inf, 0.0, largest)).exp()
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
            kept = torch.zeros_like(logits).scatter(-1, top.indices, weights)
            outs.append((kept @ vs.unsqueeze(2)).flatten(1, 2))
            lses.append(lse.flatten(1, 2))
        return torch.cat(outs, 2).to(q.dtype), torch.cat(lses, 2)
