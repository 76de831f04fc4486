"""One decode step as its rules say it: row after row, cluster after cluster, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.testing.oracle.replacement import prefix
from multipole_lab.testing.oracle.softmax import Partial, softmax_sum


def decode_step(
    q: Tensor,
    state: object,
    *,
    scale: float,
    budget: int,
    rooms: Tensor | None = None,
    lookups: int | None = None,
    replacement: bool = True,
    top_p: float | None = None,
    softcap: float | None = None,
    lookup_q: Tensor | None = None,
) -> Partial:
    """What ``decoding.step.reference.decode_step`` computes, which says what the arguments are.

    ``state`` is a ``decoding.store.state.State``. Multipole Attention (2506.13059), section 3.
    """
    B, Hq, _, D = q.shape
    Hk = state.keys.shape[1]
    queries = q.view(B, Hk, Hq // Hk, D)
    probes = queries if lookup_q is None else lookup_q.view(queries.shape)
    parts = []
    for row in range(B * Hk):
        b, h = divmod(row, Hk)
        places = budget if rooms is None else min(budget, int(rooms[row]))
        rules = Row(state, b, h, scale, softcap)
        parts.append(rules.attend(queries[b, h], probes[b, h], places, lookups, replacement, top_p))
    out, lse = (torch.stack(x) for x in zip(*parts, strict=True))
    return out.view(B, Hq, 1, -1), lse.view(B, Hq, 1)


class Row:
    """The cache of one key/value head of one batch entry."""

    def __init__(self, state: object, b: int, h: int, scale: float, softcap: float | None) -> None:
        self.state, self.b, self.h, self.scale, self.softcap = state, b, h, scale, softcap

    def logits(self, q: Tensor, keys: Tensor) -> Tensor:
        """``s q.k``, or ``c tanh(s q.k / c)`` under a softcap c."""
        x = self.scale * q @ keys.mT
        return x if self.softcap is None else self.softcap * torch.tanh(x / self.softcap)

    def masses(self, q: Tensor, level: int, listed: list[int]) -> Tensor:
        """``a_gj = log tokens_j + s q_g.k_j [+ s^2 |q_g|^2 spread_j]`` of the listed clusters of a level."""
        one = self.state.levels[level]
        keys, tokens = (x[self.b, self.h, listed] for x in (one.keys, one.tokens))
        a = self.logits(q, keys) + tokens.to(q.dtype).log()
        if self.state.spreads and self.softcap is None:
            spread = self.state.spreads[level][self.b, self.h, listed]
            a = a + (self.scale * q).square().sum(-1, keepdim=True) * spread
        return a

    def below(self, level: int, j: int) -> list[int]:
        """The members of a cluster: clusters of the level below, or positions of the storage."""
        one = self.state.levels[level]
        first, count = (int(x[self.b, self.h, j]) for x in (one.first, one.members))
        return list(range(first, first + count))

    def always(self) -> list[int]:
        """Positions of the sinks and of the tail, without padding."""
        state = self.state
        there = [*range(state.sinks), *range(state.clustered, state.length)]
        return (
            there
            if state.valid is None
            else [n for n, ok in zip(there, state.valid[self.b], strict=True) if ok]
        )

    def open_clusters(
        self, share: Tensor, level: int, listed: list[int], places: int, limit: float | None = None
    ) -> list[int]:
        """The listed clusters of largest share per member, in that order, while their members fit."""
        sizes = [len(self.below(level, j)) for j in listed]
        each = share / torch.tensor(sizes, device=share.device).clamp(min=1)
        return [listed[i] for i in prefix(each.tolist(), sizes, places, share.tolist(), limit)]

    def attend(
        self,
        q: Tensor,
        probe: Tensor,
        budget: int,
        lookups: int | None,
        replacement: bool,
        top_p: float | None,
    ) -> Partial:
        """G queries of one group, which share the choice: [G, Dv] and [G]."""
        state, b, h = self.state, self.b, self.h
        exact = self.always()
        parts = [(self.logits(q, state.keys[b, h, exact]), state.values[b, h, exact])]
        if state.levels:
            top = len(state.levels) - 1
            listed = list(range(state.levels[top].size))
            a = self.masses(probe, top, listed)
            norm = torch.cat([a, parts[0][0]], -1).logsumexp(-1, keepdim=True)
            limit = None if top_p is None else top_p * len(q) - float((parts[0][0] - norm).exp().sum())

            def share(a: Tensor) -> Tensor:
                return (a - norm).exp().sum(0)

            replaced = []
            if top == 1:
                places = state.levels[0].size if lookups is None else min(lookups, state.levels[0].size)
                looked = self.open_clusters(share(a), 1, listed, places)
                replaced.append((1, [j for j in listed if j not in looked], probe))
                listed = [i for j in looked for i in self.below(1, j)]
                a = self.masses(probe, 0, listed)
            opened = self.open_clusters(share(a), 0, listed, budget, limit)
            replaced.append((0, [j for j in listed if j not in opened], probe))
            for level, left, of in replaced if replacement else ():
                parts.append((self.masses(of, level, left), state.levels[level].values[b, h, left]))
            summed = [n for j in opened for n in self.below(0, j)]
            parts.append((self.logits(q, state.keys[b, h, summed]), state.values[b, h, summed]))
        logits, values = (
            torch.cat(x, dim) for x, dim in zip(zip(*parts, strict=True), (-1, -2), strict=True)
        )
        return softmax_sum(logits, values)
