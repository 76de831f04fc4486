"""Centroid replacement, as in Multipole Attention (2506.13059): keys expanded at the origin of query space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from multipole_lab.attention.backend import check_backend, use_triton
from multipole_lab.attention.causal import causal_attention, with_sinks
from multipole_lab.attention.checks import finite
from multipole_lab.attention.exact import exact_causal, exact_partial
from multipole_lab.attention.expansion import NEVER, softmax_seen
from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.attention.partition import Partition
from multipole_lab.attention.recompute import recomputed
from multipole_lab.clustering.checks import check_count
from multipole_lab.clustering.clusters import member_sum, statistics_dtype

# Numbers gathered or multiplied out at a time, so that memory stays linear in the sequence.
TILE = 1 << 23


@dataclass(frozen=True)
class Centroid(Method):
    """Every cluster acts as its centroid, weighted by its size; each query's best clusters are summed exactly.

    ``a_j(q) ~ log n_j + s q.k_j`` and ``v_j(q) ~ v_j`` with the plain means k_j and v_j: DESIGN's expansion at the
    origin. Sinks, the most recent keys and up to ``budget`` tokens of the clusters of largest ``a_j(q)`` are exact.

    Parameters
    ----------
    clusters : number of key clusters; in causal attention of every block.
    budget : tokens a query sums exactly: its clusters in order of decreasing mass, as long as they fit, at least 0.
    sinks : leading keys that are always exact; centroid scores cannot see the sink token among its neighbours.
    recent : trailing keys that are always exact. In causal attention of many queries the exact leaf takes this
        part; ``recent`` then applies to the keys before the first query.
    cap, iterations, partition, seed, leaf : as for ``MuSe``; ``cap=None`` does not limit cluster sizes.
    backend : "auto", "torch" or "triton", for the exact part; the centroids are torch's in each.

    Raises
    ------
    ValueError, TypeError : on creation, for a value outside these; on a call, for clusters above the number of keys.

    References
    ----------
    Multipole Attention, arXiv 2506.13059, section 3.
    """

    clusters: int | Literal["auto"] = 64
    budget: int = 0
    sinks: int = 0
    recent: int = 0
    cap: float | None = 1.5
    iterations: int = 1
    partition: Literal["kmeans", "balanced", "spatial"] = "kmeans"
    leaf: int = 1024
    seed: int = 0
    backend: Literal["auto", "torch", "triton"] = "auto"

    def __post_init__(self) -> None:
        _ = self._partition  # checks its own fields
        for name in ("budget", "sinks", "recent"):
            check_count(name, getattr(self, name), 0)
        check_count("leaf", self.leaf, 1)
        check_backend(self.backend)

    @property
    def _partition(self) -> Partition:
        return Partition(self.partition, self.clusters, self.cap, self.iterations, self.seed)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        self._partition.check_fits(k.shape[2])
        use_triton(self.backend, q, v)  # refuses what the kernels cannot run
        if not finite(q, k, v):
            return exact_partial(q, k, v, scale, mask=mask)
        return with_sinks(
            self._with_recent, q, k, v, scale, mask, self.sinks, causal=False, backend=self.backend
        )

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        use_triton(self.backend, q, v)
        if not finite(q, k, v):
            return exact_causal(q, k, v, scale, mask)

        def blocks(q, k, v, scale, mask):
            return causal_attention(
                self._clustered, q, k, v, scale, mask, self.leaf, self._with_recent, self.backend
            )

        return with_sinks(blocks, q, k, v, scale, mask, self.sinks, causal=True, backend=self.backend)

    def _with_recent(self, q, k, v, scale, mask) -> Partial:
        """The last ``recent`` keys exactly, those before them clustered."""
        old = k.shape[2] - min(self.recent, k.shape[2])
        seen, new = (None, None) if mask is None else (mask[:, :old], mask[:, old:])
        if old == 0:
            return exact_partial(q, k, v, scale, mask=mask, backend=self.backend)
        clustered = self._clustered(q, k[:, :, :old], v[:, :, :old], scale, seen)
        if old == k.shape[2]:
            return clustered
        last = exact_partial(q, k[:, :, old:], v[:, :, old:], scale, mask=new, backend=self.backend)
        return merge([clustered, last])

    def _clustered(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        clusters = self._partition.clusters_of(k, mask)
        constants = [clusters.labels, clusters.counts, clusters.order, clusters.offsets]
        return _centroid(q, k, v, constants, [scale, float(self.budget)])


def centroid_formula(
    q: Tensor, k: Tensor, v: Tensor, constants: list[Tensor], settings: list[float]
) -> Partial:
    """The plain formula, given the assignments; the choice of clusters is a constant, as they are."""
    labels, counts, order, offsets = constants
    s, budget = settings[0], int(settings[1])
    B, Hq, Nq, D = q.shape
    Hk, Nk = k.shape[1:3]
    J = counts.shape[-1]
    dtype = statistics_dtype(q.dtype)
    rows = B * Hk
    size = counts.view(rows, J)
    k_mean = member_sum(k.reshape(rows, Nk, -1), labels.view(rows, Nk), J) / size.clamp(min=1).unsqueeze(-1)
    v_mean = member_sum(v.reshape(rows, Nk, -1), labels.view(rows, Nk), J) / size.clamp(min=1).unsqueeze(-1)
    log_size = torch.where(size > 0, size.clamp(min=1).to(dtype).log(), NEVER).unsqueeze(1)  # [R, 1, J]
    qs = q.reshape(rows, -1, D)  # all queries of a group, [R, G Nq, D]
    queries = qs.shape[1]
    step = max(1, TILE // (rows * max(J, budget * D)))
    outs, lses = [], []
    for first in range(0, queries, step):
        part = qs[:, first : first + step].to(dtype)
        a = torch.baddbmm(log_size, part, k_mean.mT, alpha=s)  # [R, n, J]
        near = None
        if budget:
            with torch.no_grad():
                members, taken, chosen = choose(
                    a, size, order.view(rows, Nk), offsets.view(rows, J + 1), budget
                )
            near = gathered(part, k.reshape(rows, Nk, -1), v.reshape(rows, Nk, -1), members, taken, s)
            a = a.masked_fill(chosen, NEVER)
        weights, lse = softmax_seen(a)
        far = torch.bmm(weights, v_mean), lse
        out, lse = far if near is None else merge([far, near])
        outs.append(out)
        lses.append(lse)
    out, lse = torch.cat(outs, 1), torch.cat(lses, 1)
    return out.view(B, Hq, Nq, -1).to(q.dtype), lse.view(B, Hq, Nq)


def _largest(q: Tensor, k: Tensor, v: Tensor, constants: list[Tensor], settings: list[float]) -> int:
    """Numbers in the largest temporary of one row: masses, or the gathered keys; the formula tiles its queries."""
    return min(TILE, q.shape[1] * q.shape[2] * max(constants[1].shape[-1], int(settings[1]) * k.shape[-1]))


_centroid = recomputed("centroid", centroid_formula, _largest)


def choose(
    a: Tensor, size: Tensor, order: Tensor, offsets: Tensor, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each query's clusters of largest mass, as long as their tokens fit the budget.

    Returns the members' positions [R, n, budget] in order of mass, which of them are filled, and the chosen
    clusters [R, n, J]. Empty clusters take no room.
    """
    R, n, J = a.shape
    budget = min(budget, order.shape[-1])
    ranked = a.sort(dim=-1, descending=True, stable=True).indices  # [R, n, J]
    sizes = size.unsqueeze(1).expand(R, n, J).gather(-1, ranked)
    ends = sizes.cumsum(-1)
    fits = ends <= budget  # a prefix, for sizes are not negative
    chosen = torch.zeros_like(fits).scatter(-1, ranked, fits)
    # Place t of the budget belongs to the first ranked cluster that ends behind it.
    place = torch.arange(budget, device=a.device).expand(R, n, budget).contiguous()
    which = torch.searchsorted(ends, place, right=True).clamp(max=J - 1)
    taken = fits.gather(-1, which) & (place < ends[..., -1:])
    start = ends.gather(-1, which) - sizes.gather(-1, which)
    begin = offsets.unsqueeze(1).expand(R, n, J + 1).gather(-1, ranked.gather(-1, which))
    position = torch.where(taken, begin + place - start, 0)
    members = order.unsqueeze(1).expand(R, n, -1).gather(-1, position)
    return members, taken, chosen


def gathered(q: Tensor, k: Tensor, v: Tensor, members: Tensor, taken: Tensor, s: float) -> Partial:
    """Exact attention of every query over its own list of keys: q [R, n, D], members and taken [R, n, budget]."""
    R, n, budget = members.shape
    N = k.shape[1]
    index = (members + torch.arange(R, device=k.device).view(R, 1, 1) * N).view(-1)
    keys = k.reshape(R * N, -1).index_select(0, index).view(R, n, budget, -1).to(q.dtype)
    values = v.reshape(R * N, -1).index_select(0, index).view(R, n, budget, -1).to(q.dtype)
    logits = s * (keys @ q.unsqueeze(-1)).squeeze(-1)
    weights, lse = softmax_seen(torch.where(taken, logits, NEVER))
    return (weights.unsqueeze(-2) @ values).squeeze(-2), lse
