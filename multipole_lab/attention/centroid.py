"""Centroid replacement, as in Multipole Attention (2506.13059): keys expanded at the origin of query space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from multipole_lab import renamed
from multipole_lab.attention.calls.backend import check_affordable, check_backend, use_triton
from multipole_lab.attention.calls.recompute import recomputed
from multipole_lab.attention.causal import causal_attention
from multipole_lab.attention.clustered import attend_clustered, behind_sinks
from multipole_lab.attention.clusters.partition import Partition
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.expansion import NEVER, softmax_seen
from multipole_lab.attention.method import Method
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.clustering.checks import check_count
from multipole_lab.clustering.clusters import member_mean

# Numbers gathered or multiplied out at a time, so that memory stays linear in the sequence.
TILE = 1 << 23


@dataclass(frozen=True)
class Centroid(Method):
    """Every cluster acts as its centroid, weighted by its size; each query's best clusters are summed exactly.

    ``a_j(q) ~ log n_j + s q.k_j`` and ``v_j(q) ~ v_j`` with the plain means k_j and v_j: the expansion at the origin
    (``docs/design.md#centroid-replacement``). Sinks, the most recent keys and up to ``budget`` tokens of the clusters
    of largest ``a_j(q)`` are exact.

    A query's result depends on no other query, but in causal attention, beyond the leaf, the length decides where
    blocks begin. So padding must be named, on whichever side it is: with ``mask`` or ``lengths`` real positions get
    what the same call without the padding gives them, as in ``MuSe``. Without them padding is text like any other.

    Parameters
    ----------
    clusters : number of key clusters; in causal attention of every block.
    budget : tokens a query sums exactly: its clusters in order of decreasing mass, as long as they fit, at least 0.
    sinks : leading keys that are always exact; centroid scores cannot see the sink token among its neighbours.
    recent : trailing keys that are always exact. In causal attention of many queries the exact leaf takes this
        part; ``recent`` then applies to the keys before the first query.
    cap, iterations, partition, seed, leaf : as for ``MuSe``; ``cap=None`` does not limit cluster sizes.
    backend : "auto", "torch" or "triton". The choice of each query's clusters and the sum over their members are
        torch's in each: slow for many queries on a GPU, where "auto" refuses a budget. The rest are kernels.

    Raises
    ------
    ValueError, TypeError : on creation, for a value outside these; on a call, for clusters above the number of keys, or
        a budget of over 4,096 queries on a GPU under ``backend="auto"``.

    References
    ----------
    Multipole Attention, arXiv 2506.13059, section 3. Its clusters, and ``MultipoleCache``'s, come in the order of mass
    per member (equation 1), here in that of mass, as MuSe's near ones. Under a cap of 1.5 both orders err alike.
    """

    clusters: int | Literal["auto"] = 64
    budget: int = 0
    sinks: int = 0
    recent: int = 0
    cap: float | None = 1.5
    iterations: int = 1
    partition: Literal["kmeans", "balanced", "runs"] = "kmeans"
    leaf: int = 1024
    seed: int = 0
    backend: Literal["auto", "torch", "triton"] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "partition", renamed.value("partition", self.partition))
        _ = self._partition  # checks its own fields
        for name in ("budget", "sinks", "recent"):
            check_count(name, getattr(self, name), 0)
        check_count("leaf", self.leaf, 1)
        check_backend(self.backend)

    @property
    def _partition(self) -> Partition:
        return Partition(self.partition, self.clusters, self.cap, self.iterations, self.seed)

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        check_affordable(self.budget, self.backend, q)
        return attend_clustered(self, q, k, v, scale, mask, causal=False)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        check_affordable(self.budget, self.backend, q)
        return attend_clustered(self, q, k, v, scale, mask, causal=True)

    def _over_all(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        return behind_sinks(self._with_recent, self, q, k, v, scale, mask, causal=False)

    def _over_past(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
        def blocks(*given):
            return causal_attention(self._clustered, *given, self.leaf, self._with_recent, self.backend)

        return behind_sinks(blocks, self, q, k, v, scale, mask, causal=True)

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
        triton = use_triton(self.backend, q, v)
        partition = self._partition
        clusters = partition.on_device(k, mask) if triton else partition.clusters_of(k, mask)
        members = Members(clusters.labels, clusters.counts, clusters.order, clusters.offsets)
        return _centroid(q, k, v, members, Replacement(scale, self.budget, triton))


@dataclass(frozen=True)
class Members:
    """``Clusters`` without their centroids, which carry a gradient and are made again."""

    labels: Int[Tensor, "B H N"]
    counts: Int[Tensor, "B H C"]
    order: Int[Tensor, "B H N"]
    offsets: Int[Tensor, "B H C1"]


@dataclass(frozen=True)
class Replacement:
    """The scale s of the logits, the budget of keys that each query sums exactly, and whether kernels do the rest."""

    scale: float
    budget: int = 0
    kernels: bool = False


def centroid_formula(q: Tensor, k: Tensor, v: Tensor, clusters: Members, replacement: Replacement) -> Partial:
    """The plain formula, given the assignments; the choice of clusters is a constant, as they are."""
    s, budget, kernels = replacement.scale, replacement.budget, replacement.kernels
    B, Hq, Nq, D = q.shape
    Hk, Nk = k.shape[1:3]
    J = clusters.counts.shape[-1]
    rows = B * Hk
    size, labels = clusters.counts.view(rows, J), clusters.labels.view(rows, Nk)
    order, offsets = clusters.order.view(rows, Nk), clusters.offsets.view(rows, J + 1)
    k, v = k.reshape(rows, Nk, -1), v.reshape(rows, Nk, -1)
    if kernels:
        from multipole_lab.kernels.centroid.replace import member_means

        k_mean, v_mean = (member_means(x, labels, size, order, offsets) for x in (k, v))
    else:
        k_mean, v_mean = (member_mean(x, labels, size) for x in (k, v))
    far = _far_kernels if kernels else _far
    qs = q.reshape(rows, -1, D)  # all queries of a group, [R, G Nq, D]
    queries = qs.shape[1]
    step = queries if kernels and budget == 0 else max(1, TILE // (rows * max(J, budget * D)))
    partials = []
    for first in range(0, queries, step):
        part = qs[:, first : first + step]
        if budget == 0:
            partials.append(far(part, k_mean, v_mean, size, s, None))
            continue
        wide = part.to(k_mean.dtype)
        with torch.no_grad():
            members, taken, opened = open_clusters(
                masses(wide, k_mean, size, s), size, order, offsets, budget
            )
        near = gathered(wide, k, v, members, taken, s)
        partials.append(merge([far(part, k_mean, v_mean, size, s, opened), near]))
    out, lse = (torch.cat(parts, 1) for parts in zip(*partials, strict=True))
    return out.view(B, Hq, Nq, -1).to(q.dtype), lse.view(B, Hq, Nq)


def masses(q: Tensor, k_mean: Tensor, size: Tensor, s: float) -> Tensor:
    """``a_j(q) = log n_j + s q.k_j``, [R, n, J]; NEVER for an empty cluster."""
    log_size = torch.where(size > 0, size.clamp(min=1).to(q.dtype).log(), NEVER).unsqueeze(1)  # [R, 1, J]
    return torch.baddbmm(log_size, q, k_mean.mT, alpha=s)


def _far(q: Tensor, k_mean: Tensor, v_mean: Tensor, size: Tensor, s: float, opened: Tensor | None) -> Partial:
    """Attention of every query over the centroids of the clusters that it did not open."""
    a = masses(q.to(k_mean.dtype), k_mean, size, s)
    weights, lse = softmax_seen(a if opened is None else a.masked_fill(opened, NEVER))
    return torch.bmm(weights, v_mean), lse


def _far_kernels(
    q: Tensor, k_mean: Tensor, v_mean: Tensor, size: Tensor, s: float, opened: Tensor | None
) -> Partial:
    """The same by the kernels, in the dtype of q."""
    from multipole_lab.kernels.centroid.replace import centroid_field

    means = k_mean.to(q.dtype), v_mean.to(q.dtype)
    out, lse = centroid_field(q, *means, size, s, None if opened is None else ~opened)
    return out.to(k_mean.dtype), lse


def _largest(q: Tensor, k: Tensor, v: Tensor, clusters: Members, replacement: Replacement) -> int:
    """Numbers in the largest temporary of one row, masses or gathered keys; kernels take all rows in one launch."""
    if replacement.kernels:
        return 0
    each = max(clusters.counts.shape[-1], replacement.budget * k.shape[-1])
    return min(TILE, q.shape[1] * q.shape[2] * each)


_centroid = recomputed("centroid", centroid_formula, _largest, Members, Replacement)


def open_clusters(
    a: Tensor, size: Tensor, order: Tensor, offsets: Tensor, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each query's clusters of largest mass, as long as their tokens fit the budget.

    Returns the members' positions [R, n, budget] in order of mass, which of them are filled, and the opened
    clusters [R, n, J]. Empty clusters take no place.
    """
    R, n, J = a.shape
    budget = min(budget, order.shape[-1])
    ranked = a.sort(dim=-1, descending=True, stable=True).indices  # [R, n, J]
    sizes = size.unsqueeze(1).expand(R, n, J).gather(-1, ranked)
    ends = sizes.cumsum(-1)
    fits = ends <= budget  # a prefix, for sizes are not negative
    opened = torch.zeros_like(fits).scatter(-1, ranked, fits)
    # Place t of the budget belongs to the first ranked cluster that ends behind it.
    place = torch.arange(budget, device=a.device).expand(R, n, budget).contiguous()
    which = torch.searchsorted(ends, place, right=True).clamp(max=J - 1)
    taken = fits.gather(-1, which) & (place < ends[..., -1:])
    start = ends.gather(-1, which) - sizes.gather(-1, which)
    begin = offsets.unsqueeze(1).expand(R, n, J + 1).gather(-1, ranked.gather(-1, which))
    position = torch.where(taken, begin + place - start, 0)
    members = order.unsqueeze(1).expand(R, n, -1).gather(-1, position)
    return members, taken, opened


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
