"""What a clustered cache is compared with: one-token attention over the same keys, by other rules.

Every side is fed and asked alike: ``append(k, v)``, then ``step(q, scale)`` for one query per head.
``touched()`` says how many bytes of keys, values and summaries the last kind of step reads.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from multipole_lab.attention.exact import exact_partial
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.opening import gather_rows
from multipole_lab.decoding.store.rope import Rotation
from multipole_lab.decoding.store.storage import Growing


class Dense:
    """All keys, exactly, by torch's ``scaled_dot_product_attention``; query heads share their keys unexpanded."""

    def __init__(self) -> None:
        self.keys: Growing | None = None

    def append(self, k: Float[Tensor, "B Hk n D"], v: Float[Tensor, "B Hk n Dv"]) -> None:
        """Store new keys and values."""
        if self.keys is None:
            self.keys = Growing(k.shape, k.dtype, k.device)
            self.values = Growing(v.shape, v.dtype, v.device)
        self.keys.append(k)
        self.values.append(v)

    def step(self, q: Float[Tensor, "B Hq 1 D"], scale: float) -> Float[Tensor, "B Hq 1 Dv"]:
        """Attention of one token."""
        B, Hq, _, D = q.shape
        packed = q.reshape(B, self.keys.buffer.shape[1], -1, D)
        out = torch.nn.functional.scaled_dot_product_attention(
            packed, self.keys.view(), self.values.view(), scale=scale
        )
        return out.reshape(B, Hq, 1, -1)

    def touched(self) -> int:
        """Bytes read by a step."""
        return self._row() * self.keys.length

    def _row(self) -> int:
        k, v = self.keys.buffer, self.values.buffer
        return k.shape[0] * k.shape[1] * (k.shape[3] + v.shape[3]) * k.element_size()

    def _over(self, q: Tensor, index: Tensor, scale: float) -> Tensor:
        """Exact attention over the keys [B, Hk, m] of every key/value head."""
        B, Hk = self.keys.buffer.shape[:2]
        rows = index.flatten(0, 1)
        k, v = (
            gather_rows(x.buffer.flatten(0, 1), rows).unflatten(0, (B, Hk)) for x in (self.keys, self.values)
        )
        packed = q.reshape(B, Hk, -1, q.shape[-1])
        out, _ = exact_partial(packed, k, v, scale)
        return out.reshape(*q.shape[:-1], -1)

    def _ends(self, sinks: int, recent: int) -> Tensor:
        """The first and the last keys, [B, Hk, m]."""
        N = self.keys.length
        ends = torch.cat([torch.arange(min(sinks, N)), torch.arange(max(min(sinks, N), N - recent), N)])
        return ends.to(self.keys.buffer.device).expand(*self.keys.buffer.shape[:2], -1)


class WindowSinks(Dense):
    """The first and the last keys only (StreamingLLM, 2309.17453)."""

    def __init__(self, sinks: int, recent: int) -> None:
        super().__init__()
        self.sinks, self.recent = sinks, recent

    def step(self, q: Tensor, scale: float) -> Tensor:
        """Attention of one token."""
        return self._over(q, self._ends(self.sinks, self.recent), scale)

    def touched(self) -> int:
        """Bytes read by a step."""
        return self._row() * min(self.sinks + self.recent, self.keys.length)


class TopKeys(Dense):
    """The ``budget`` keys of largest mass, found by computing all logits: no selection of whole keys is better."""

    def __init__(self, budget: int | float, sinks: int, recent: int) -> None:
        super().__init__()
        self.settings = Settings(budget=budget, sinks=sinks, recent=recent)

    def step(self, q: Tensor, scale: float) -> Tensor:
        """Attention of one token."""
        s, (B, Hk), N = self.settings, self.keys.buffer.shape[:2], self.keys.length
        shares = (scale * q.reshape(B, Hk, -1, q.shape[-1]) @ self.keys.view().mT).softmax(-1).sum(2)
        shares[..., : s.sinks] = shares[..., max(0, N - s.recent) :] = -1  # these come anyway
        between = max(0, N - s.sinks - s.recent)
        best = shares.topk(min(s.tokens(N), between), -1).indices
        return self._over(q, torch.cat([self._ends(s.sinks, s.recent), best], -1), scale)

    def touched(self) -> int:
        """Bytes read by a step: all keys, then the chosen values."""
        k, s = self.keys.buffer, self.settings
        whole = k.shape[0] * k.shape[1] * k.shape[3] * k.element_size() * self.keys.length
        return whole + self._row() // 2 * (s.tokens(self.keys.length) + s.sinks + s.recent)


class Pages(Dense):
    """Pages of neighbouring keys, scored by the bound that their smallest and largest coordinates give.

    ``score = sum_d max(q_d min_d, q_d max_d)`` bounds every logit of the page (Quest, 2406.10774); the pages of
    largest score, up to the budget, are summed exactly. The heads of a group add up their scores' shares.
    """

    def __init__(self, budget: int | float, sinks: int, recent: int, page: int = 16) -> None:
        super().__init__()
        self.settings, self.page = Settings(budget=budget, sinks=sinks, recent=recent), page
        self.low: Growing | None = None

    def append(self, k: Tensor, v: Tensor) -> None:
        """Store new keys and values; bounds for every page that is full now."""
        super().append(k, v)
        if self.low is None:
            self.low, self.high = (Growing(k.shape, k.dtype, k.device) for _ in range(2))
        done, full = self.low.length, self.keys.length // self.page
        if full > done:
            fresh = self.keys.view()[:, :, done * self.page : full * self.page].unflatten(2, (-1, self.page))
            self.low.append(fresh.amin(3))
            self.high.append(fresh.amax(3))

    def step(self, q: Tensor, scale: float) -> Tensor:
        """Attention of one token."""
        s, (B, Hk), N = self.settings, self.keys.buffer.shape[:2], self.keys.length
        first = -(-s.sinks // self.page)
        last = max(first, (N - s.recent) // self.page)
        ends = self._ends(first * self.page, N - last * self.page)
        packed = q.reshape(B, Hk, -1, q.shape[-1])
        low, high = (x.view()[:, :, first:last].mT for x in (self.low, self.high))
        score = (scale * (packed.clamp(min=0) @ high + packed.clamp(max=0) @ low)).softmax(-1).sum(2)
        best = score.topk(min(s.tokens(N) // self.page, last - first), -1).indices + first
        members = best.unsqueeze(-1) * self.page + torch.arange(self.page, device=q.device)
        return self._over(q, torch.cat([ends, members.flatten(-2)], -1), scale)

    def touched(self) -> int:
        """Bytes read by a step: two bounds a page, then the chosen keys and values."""
        s = self.settings
        return self._row() * (self.keys.length // self.page + s.tokens(self.keys.length) + s.sinks + s.recent)


class Clustered:
    """One layer of ``MultipoleCache``, which clusters however short the text is."""

    def __init__(self, settings: Settings, rotation: Rotation | None = None) -> None:
        self.layer = ClusteredLayer(replace(settings, dense_until=0), rotation)

    def append(self, k: Tensor, v: Tensor) -> None:
        """Store new keys and values."""
        self.layer.update(k, v)

    def step(self, q: Tensor, scale: float) -> Tensor:
        """Attention of one token; joins what is due."""
        return self.layer.attend(q, None, scale)

    def touched(self) -> int:
        """Bytes read by a step."""
        h, s = self.layer.hierarchy, self.layer.settings
        k, v = h.keys.buffer, h.values.buffer
        row = k.shape[0] * k.shape[1] * (k.shape[3] + v.shape[3]) * k.element_size()
        budget = min(s.tokens(h.length), h.clustered)
        vectors = budget + h.length - h.clustered + h.sinks
        if h.levels:
            fine = h.levels[0].keys.length
            vectors += fine if s.levels == 1 else h.levels[1].keys.length + s.looked_at(fine, budget)
        return row * vectors
