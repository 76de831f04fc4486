"""What a method should give: the clusters are the method's own, all that is done with them is the oracle's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention import Centroid, Exact, Method, MuSe, TopK, Window
from multipole_lab.attention.calls.leaf import settled_for
from multipole_lab.attention.causal import block_sizes
from multipole_lab.attention.clusters.points import from_earlier
from multipole_lab.attention.expansion import principal_directions
from multipole_lab.suggesting import suggesting
from multipole_lab.testing import oracle
from multipole_lab.testing.oracle.softmax import Partial

Full = Callable[[Tensor, Tensor, Tensor], Partial]


@suggesting
def expected(
    method: Method,
    q: Float[Tensor, "B Hq Nq D"],
    k: Float[Tensor, "B Hk Nk D"],
    v: Float[Tensor, "B Hk Nk Dv"],
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Partial:
    """``method(q, k, v, causal=causal, scale=scale, return_lse=True)`` by the oracle, without padding, in float64.

    Directions of a dipole of reduced rank are the library's too: the oracle takes them as given.

    Raises
    ------
    TypeError : a method that has no formula here.
    """
    method = settled_for(method, q, v)
    dtype, s = q.dtype, q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (x.double() for x in (q, k, v))
    if isinstance(method, MuSe):
        return _clustered(method, partial(muse_of, method, s=s, dtype=dtype), q, k, v, s, causal)
    if isinstance(method, Centroid):
        return _clustered(method, partial(_centroid, method, s=s, dtype=dtype), q, k, v, s, causal)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    seen = oracle.visible(q.shape[2], k.shape[2], causal).to(q.device)
    if isinstance(method, Window):
        return oracle.exact(q, k, v, s, seen & _band(method, *seen.shape, causal).to(q.device))
    if isinstance(method, TopK):
        logits = (s * q @ k.mT).masked_fill(~seen, -torch.inf)
        best = logits.topk(min(method.keys, k.shape[2])).indices
        return oracle.exact(
            q, k, v, s, seen & torch.zeros_like(logits, dtype=torch.bool).scatter(-1, best, True)
        )
    if isinstance(method, Exact):
        return oracle.exact(q, k, v, s, seen)
    raise TypeError(f"method is {method!r}; MuSe, Centroid, Exact, Window and TopK have a formula here")


def muse_of(method: MuSe, q: Tensor, k: Tensor, v: Tensor, *, s: float, dtype: torch.dtype) -> Partial:
    """MuSe of all queries over all keys, clustered in the given dtype."""
    labels = method._query_partition.labels(q.to(dtype)), method._partition.labels(k.to(dtype))
    return _muse_of_labels(method, q, k, v, *labels, s)


def _muse_of_labels(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, q_labels: Tensor, k_labels: Tensor, s: float,
    points: Tensor | None = None,
) -> Partial:  # fmt: skip
    basis = directions(q, q_labels, method._rank(q.shape[-1]))

    def of_head(*given: Tensor) -> Partial:
        *given, points = given
        options = {"near": method.near, "order": method.order, "near_for": method.near_for, "points": points}
        return oracle.muse(*given, s=s, **options)

    return oracle.over_heads(of_head, q, k, v, q_labels, k_labels, basis, points)


def directions(
    q: Float[Tensor, "B H N D"], labels: Int[Tensor, "B H N"], rank: int
) -> Float[Tensor, "B H C D r"] | None:
    """The leading directions of every query cluster's displacements, [B, H, C, D, r]; None for none and for all."""
    if not 0 < rank < q.shape[-1]:
        return None

    def of_head(x: Tensor, own: Tensor) -> Tensor:
        each = [x[n] - x[n].mean(0) if len(n) else x[:1] * 0 for n in oracle.members(own, clusters)]
        return torch.stack([principal_directions(d[None, None], rank)[0, 0] for d in each])

    clusters = int(labels.max()) + 1
    rows = zip(q.flatten(0, 1), labels.flatten(0, 1), strict=True)
    return torch.stack([of_head(*row) for row in rows]).unflatten(0, q.shape[:2])


def _means(q: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """The mean of every cluster of every head, [B, H, C, D]."""
    rows = zip(q.flatten(0, 1), labels.flatten(0, 1), strict=True)
    return torch.stack([oracle.means(*row, clusters) for row in rows]).unflatten(0, q.shape[:2])


def _centroid(method: Centroid, q: Tensor, k: Tensor, v: Tensor, *, s: float, dtype: torch.dtype) -> Partial:
    """The clustered keys and, where the method has any, the recent ones exactly."""
    old = k.shape[2] - min(method.recent, k.shape[2])
    partials = [_exact(q, k[:, :, old:], v[:, :, old:], s)]
    if old:
        k, v = k[:, :, :old], v[:, :, :old]
        labels = method._partition.labels(k.to(dtype))
        partials.append(oracle.over_heads(oracle.centroid, q, k, v, labels, opened=method.budget, s=s))
    return oracle.merge(partials)


def _clustered(
    method: MuSe | Centroid, full: Full, q: Tensor, k: Tensor, v: Tensor, s: float, causal: bool
) -> Partial:
    """Sinks exactly, and behind them ``full``, causally in blocks."""
    Nq, Nk = q.shape[2], k.shape[2]
    sinks = min(method.sinks, Nk)
    among = max(0, sinks - (Nk - Nq)) if causal else 0  # queries that are themselves sinks
    first = [x[:, :, :sinks] for x in (k, v)]
    parts = []
    if among:
        seen = oracle.visible(among, sinks, causal=True)
        parts.append(_exact(q[:, :, :among], *first, s, seen.to(q.device)))
    if among < Nq:
        later, behind = q[:, :, among:], [x[:, :, sinks:] for x in (k, v)]
        partials = [_exact(later, *first, s)]
        if sinks < Nk:
            partials.append(_blocks(method, full, later, *behind, s) if causal else full(later, *behind))
        parts.append(oracle.merge(partials))
    out, lse = (torch.cat(x, 2) for x in zip(*parts, strict=True))
    return out, lse


def _blocks(method: MuSe | Centroid, full: Full, q: Tensor, k: Tensor, v: Tensor, s: float) -> Partial:
    """The recursion; heads are repeated for it and joined again for ``full``, which clusters keys once a head.

    Recent keys lie before the first query; in the square of the queries the exact leaf takes their part.
    """
    (G, N, D), past = (q.shape[1] // k.shape[1], *q.shape[2:]), k.shape[2] - q.shape[2]
    square = full
    if isinstance(method, Centroid):
        square = partial(full.func, method.__class__(**{**vars(method), "recent": 0}), **full.keywords)
    if isinstance(method, MuSe) and method.points == "earlier":
        return _around_earlier(method, q, k, v, s, full.keywords["dtype"])
    if isinstance(method, MuSe) and method._merged and method.leaf < N:
        square, q, k, v = _with_places(method, q, k, v, s, full.keywords["dtype"])

    def of_blocks(rq: Tensor, lk: Tensor, lv: Tensor) -> Partial:
        if lk.shape[2] == past and rq.shape[2] == q.shape[2]:
            out, lse = full(rq[:, :, :N, :D], lk[:, ::G, :, :D], lv[:, ::G])
            filled = rq.shape[2] - N  # leaves are full in the square alone
            return pad(out, (0, 0, 0, filled)), pad(lse, (0, filled), value=-torch.inf)
        return square(rq, lk[:, ::G], lv[:, ::G])

    heads = q, *(x.repeat_interleave(G, 1) for x in (k, v))
    out, lse = oracle.causal(of_blocks, *heads, s=s, leaf=method.leaf)
    return out[:, :, :N], lse[:, :, :N]


def _around_earlier(method: MuSe, q: Tensor, k: Tensor, v: Tensor, s: float, dtype: torch.dtype) -> Partial:
    """Blocks around the means of the queries of the block that is asked; what lies before all queries is exact.

    The recursion hands no queries of that block on, so its keys bring them along, in columns that are zero in q.
    """
    (G, N, D), past = (q.shape[1] // k.shape[1], *q.shape[2:]), k.shape[2] - q.shape[2]
    brought = torch.cat([k.repeat_interleave(G, 1), pad(q, (0, 0, past, 0))], -1)

    def of_blocks(rq: Tensor, lk: Tensor, lv: Tensor) -> Partial:
        (own, _), (keys, earlier) = (x.split(D, -1) for x in (rq, lk))
        if rq.shape[2] == N:
            return oracle.exact(own, keys, lv, s)
        partition, keys = method._query_partition, keys[:, ::G]
        nearest, _ = from_earlier(partition, earlier.to(dtype), own.to(dtype))
        points = _means(earlier, partition.labels(earlier.to(dtype)), nearest.clusters)
        of_keys = method._partition.labels(keys.to(dtype))
        return _muse_of_labels(method, own, keys, lv[:, ::G], nearest.of, of_keys, s, points)

    return oracle.causal(of_blocks, pad(q, (0, D)), brought, v.repeat_interleave(G, 1), s=s, leaf=method.leaf)


def _with_places(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, s: float, dtype: torch.dtype
) -> tuple[Full, Tensor, Tensor, Tensor]:
    """MuSe of blocks whose clusters come from the leaves, and queries, keys and values that fill all leaves.

    The recursion names no places, so queries and keys bring their own: in a column each that is zero in the other, and
    so in no product.
    """
    N, past = q.shape[2], k.shape[2] - q.shape[2]
    block, levels = block_sizes(N, method.leaf)
    q, k, v = (pad(x, (0, 0, 0, (block << levels) - N)) for x in (q, k, v))
    given = q.to(dtype), k[:, :, past:].to(dtype), None, block, levels
    labels = method._level_labels(*given)

    def of_blocks(rq: Tensor, lk: Tensor, lv: Tensor) -> Partial:
        size = rq.shape[2]
        level = (size // block).bit_length() - 1
        of_queries, of_keys = (
            found.of[:, :, int(first) : int(first) + size]
            for found, first in zip(labels[level], (rq[0, 0, 0, -2], lk[0, 0, 0, -1]), strict=True)
        )
        return _muse_of_labels(method, rq[..., :-2], lk[..., :-2], lv, of_queries, of_keys, s)

    places = torch.arange(q.shape[2], dtype=q.dtype, device=q.device).view(1, 1, -1, 1)
    q = torch.cat([q, places.expand(*q.shape[:2], -1, 1), torch.zeros_like(q[..., :1])], -1)
    of_keys = pad(places, (0, 0, past, 0)).expand(*k.shape[:2], -1, 1)
    return of_blocks, q, torch.cat([k, torch.zeros_like(k[..., :1]), of_keys], -1), v


def _exact(q: Tensor, k: Tensor, v: Tensor, s: float, seen: Tensor | None = None) -> Partial:
    return oracle.exact(q, *(x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v)), s, seen)


def _band(method: Window, queries: int, keys: int, causal: bool) -> Tensor:
    """The keys around each position, half of them ahead if they may be, and the sinks."""
    position, column = torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)
    ahead = 0 if causal else method.size - method.size // 2 - 1
    return (column > position + ahead - method.size) & (column <= position + ahead) | (column < method.sinks)
