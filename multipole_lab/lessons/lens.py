"""What one query looks at: under exact attention, and under MuSe key by key and through which clusters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention import MuSe
from multipole_lab.attention.causal import block_sizes, of_side, sides
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.slots import Slots
from multipole_lab.attention.expansion import masses_at, nearest_clusters, summarise
from multipole_lab.attention.muse_formula import muse_formula
from multipole_lab.printing import one_line

ONE_BY_ONE, UNSEEN = -1, -2  # in the place of a cluster's number
LEAST_MOVE, LEAST_PART = 0.005, 0.2  # a weight has moved by half a percent, and by a fifth of itself


@dataclass(frozen=True)
class Look:
    """What one query gives to every key.

    Attributes
    ----------
    exact, approximate : [N]. The key's weight under exact attention and under the method; each adds up to 1.
    cluster : [N]. The number of the cluster through which the key is seen; ``ONE_BY_ONE`` where it is summed itself,
        ``UNSEEN`` where the query does not see it. Causal blocks have numbers of their own, small blocks first.
    """

    exact: Float[np.ndarray, " N"]
    approximate: Float[np.ndarray, " N"]
    cluster: Int[np.ndarray, " N"]

    __repr__ = one_line

    @property
    def moved(self) -> Int[np.ndarray, " N"]:
        """1 for a key that has gained weight that a reader would notice, -1 for one that has lost some, else 0."""
        change = self.approximate - self.exact
        least = np.maximum(LEAST_MOVE, LEAST_PART * np.maximum(self.exact, self.approximate))
        return np.where(np.abs(change) >= least, np.sign(change), 0).astype(int)


@dataclass(frozen=True)
class _Level:
    """Pairs of blocks of one size: the queries of the right one see the keys of the left one in clusters."""

    queries: Float[Tensor, "pairs 1 n D"]
    keys: Float[Tensor, "pairs 1 n D"]
    asking: Slots
    asked: Slots


class Lens:
    """The clusters of one head, found once, so that its queries can be followed one after the other.

    Parameters
    ----------
    method : without sinks. causal : whether a query sees the keys up to its own only.

    Raises
    ------
    ValueError : a method with sinks; causally, one of earlier points.
    """

    @torch.inference_mode()
    def __init__(
        self,
        method: MuSe,
        q: Float[Tensor, "1 1 N D"],
        k: Float[Tensor, "1 1 N D"],
        causal: bool,
        scale: float,
    ) -> None:
        if method.sinks:
            raise ValueError(f"method: sinks are {method.sinks}; the lens shows methods without")
        self.method, self.causal, self.scale = method, causal, scale
        self.q, self.k = q.float(), k.float()
        self._leaf, count = block_sizes(q.shape[2], method.leaf) if causal else (q.shape[2], 0)
        extra = (self._leaf << count) - q.shape[2]  # fills up the last block, as the method does
        q, k = (pad(x, (0, 0, 0, extra)) for x in (self.q, self.k))
        if not causal:
            found = method._query_partition.slots(q), method._partition.slots(k)
            self._levels = [_Level(q, k, *found)]
            return
        labels = method._level_labels(q, k, None, self._leaf, count)
        self._levels = []
        for level, (of_queries, of_keys) in enumerate(labels):
            left, right = sides(1, self._leaf << level)
            slots = Slots.laid_out(of_side(of_queries, right)), Slots.laid_out(of_side(of_keys, left))
            self._levels.append(_Level(right(q), left(k), *slots))

    @torch.inference_mode()
    def at(self, query: int) -> Look:
        """What the query at this position looks at.

        Raises
        ------
        ValueError : a position that does not exist.
        """
        N = self.q.shape[2]
        if not 0 <= query < N:
            raise ValueError(f"query: there are positions 0 to {N - 1:,}, got {query:,}")
        seen = query + 1 if self.causal else N
        logits = self.scale * self.k[0, 0, :seen] @ self.q[0, 0, query]
        weight = torch.full((N,), -torch.inf)  # logs, until all parts are there
        cluster = torch.full((N,), UNSEEN)
        if self.causal:
            began = query // self._leaf * self._leaf
            weight[began:seen], cluster[began:seen] = logits[began:], ONE_BY_ONE
        sign = torch.ones(N)
        for first, share, lse, numbers in self._parts(query):
            n = min(len(share), N - first)
            weight[first : first + n] = share[:n].abs().log() + lse
            sign[first : first + n] = share[:n].sign()  # a dipole may take a weight below zero
            cluster[first : first + n] = numbers[:n]
        total = sign * (weight - weight.max()).exp()
        exact = pad(logits.softmax(0), (0, N - seen))
        return Look(exact.numpy(), (total / total.sum()).numpy(), cluster.numpy())

    def _parts(self, query: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Of every block that the query sees in clusters: its first key, weights, log-sum-exp, clusters' numbers."""
        before = 0
        for level in self._levels:
            size, clusters = level.keys.shape[2], level.asked.index.shape[2]
            pair, side = (0, 1) if not self.causal else divmod(query // size, 2)
            if side:
                within = query % size if self.causal else query
                share, lse, numbers = self._in_block(level, pair, within)
                yield 2 * pair * size, share, lse, torch.where(numbers < 0, numbers, numbers + before)
            before += clusters

    def _in_block(self, level: _Level, pair: int, query: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights [n], their log-sum-exp, and clusters' numbers [n], from the method's own formula.

        It is asked about the cluster of the query alone, and about values that say which key is meant.
        """
        M, J = level.asking.index.shape[-1], level.asked.index.shape[2]
        own = int(level.asking.slot[pair, 0, query]) // M
        members = level.asking.index[pair, 0, own][level.asking.filled[pair, 0, own]]
        q, k = level.queries[pair : pair + 1, :, members], level.keys[pair : pair + 1]
        n, m = k.shape[2], len(members)
        place = torch.arange(m)[None, None]
        asking = Slots(place[:, :, None], torch.ones(1, 1, 1, m, dtype=torch.bool), place)
        asked = Slots(*(x[pair : pair + 1] for x in vars(level.asked).values()))
        clusters = Assignments(asking, asked, torch.ones(1, 1, n, dtype=torch.bool))
        near = min(self.method.near, J)
        expansion = replace(self.method._expansion(self.scale, k.shape[-1]), near=near)
        out, lse = muse_formula(q, k, torch.eye(n)[None, None], clusters, expansion)
        row = int((members == query).nonzero())
        numbers = asked.slot[0, 0] // asked.index.shape[-1]
        if near:
            _, p = clusters.queries_and_points(q)
            ks, _ = clusters.keys_and_values(k, k)
            a, k_tilted, _ = summarise(p, ks, ks[..., :1], clusters.filled, self.scale)
            if expansion.own:
                a = masses_at(q[:, :, row : row + 1], p, a, k_tilted, self.scale)
            nearest = nearest_clusters(a, near)
            numbers = torch.where(torch.isin(numbers, nearest), ONE_BY_ONE, numbers)
        return out[0, 0, row], lse[0, 0, row], numbers


def typical_tokens(
    tokens: Sequence[str], cluster: Int[np.ndarray, " N"], most: int = 3
) -> dict[int, list[str]]:
    """The words that tell each cluster from the rest of the text, by its number; spaces and case aside.

    A word counts as often as it is among the members, times the share of all its places in the text that are; of two
    that count alike the longer one is first.
    """
    words = [token.strip().lower() or token for token in tokens]
    all_over, inside = Counter(words), defaultdict(Counter)
    for word, number in zip(words, cluster.tolist(), strict=True):
        inside[number][word] += 1
    return {
        number: sorted(found, key=lambda word: (-(found[word] ** 2) / all_over[word], -len(word), word))[
            :most
        ]
        for number, found in inside.items()
        if number >= 0
    }
