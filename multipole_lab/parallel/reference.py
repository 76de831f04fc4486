"""What context-parallel MuSe computes, in one process and by other code: the oracle's."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from multipole_lab.attention.causal import with_sinks
from multipole_lab.attention.muse import MuSe
from multipole_lab.attention.partials import Partial, merge
from multipole_lab.clustering.checks import check_count
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.suggesting import suggesting
from multipole_lab.testing import oracle
from multipole_lab.testing.methods import directions


@suggesting
def part_of(positions: int, rank: int, ranks: int) -> slice:
    """The contiguous part of a sequence that a rank owns; the first parts are one longer where they must differ.

    Raises
    ------
    ValueError, TypeError : a rank outside the ranks, or fewer positions than ranks.
    """
    check_count("ranks", ranks, 1)
    check_count("rank", rank, 0)
    check_count("positions", positions, ranks)
    if rank >= ranks:
        raise ValueError(f"rank is {rank}; 0 to {ranks - 1} are allowed for {ranks} ranks")
    size, longer = divmod(positions, ranks)
    first = rank * size + min(rank, longer)
    return slice(first, first + size + (rank < longer))


@suggesting
def parallel_reference(
    method: MuSe,
    q: Float[Tensor, "B Hq N D"],
    k: Float[Tensor, "B Hk N D"],
    v: Float[Tensor, "B Hk N Dv"],
    ranks: int,
    *,
    causal: bool = False,
    scale: float | None = None,
    mask: Bool[Tensor, "B N"] | None = None,
) -> Partial:
    """MuSe with clusters that do not cross the parts of ``part_of``, as (out, lse) of the whole sequence.

    Full attention: the queries of each part over all keys, whose clusters are those of every part side by side.
    Causal: the same over the keys of earlier parts, merged with causal MuSe of the part itself. The expansion over
    several parts is the float64 oracle's, ``multipole_lab.testing.oracle``: slow, and with a code of its own.

    Raises
    ------
    TypeError, ValueError : a method that is no MuSe, more ranks than positions, or none.
    """
    if not isinstance(method, MuSe):
        raise TypeError(f"method is {method!r}; a MuSe is needed")
    check_count("ranks", ranks, 1)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    partition, N = method._partition, q.shape[2]
    parts = [part_of(N, rank, ranks) for rank in range(ranks)]

    def take(x: Tensor, part: slice) -> Tensor:
        return x[:, :, part].contiguous()

    labels, first = [], 0
    for part in parts:
        keys = slice(method.sinks if part.start == 0 else part.start, part.stop)
        own = partition.labels(take(k, keys), None if mask is None else mask[:, keys].contiguous())
        labels.append(torch.where(own < 0, own, own + first))
        first += partition.number(own.shape[-1])
    labels = torch.cat(labels, -1)  # [B, Hk, N - sinks], clusters of all parts numbered through

    def far(q, k, v, scale, mask):
        """Queries of one part over the clusters of as many keys behind the sinks as are given."""
        q_labels, qkv = method._query_partition.labels(q), [x.double() for x in (q, k, v)]
        basis = directions(q, q_labels, method._rank(q.shape[-1]))  # in the dtype of the ranks
        basis = None if basis is None else basis.double()
        given = *qkv, q_labels, labels[:, :, : k.shape[2]], basis
        out, lse = oracle.over_heads(oracle.muse, *given, near=method.near, s=scale, order=method.order)
        return out.to(q.dtype), lse.to(statistics_dtype(q.dtype))

    results = []
    for part in parts:
        queries, partials = take(q, part), []
        seen = slice(0, part.start if causal else N)
        if seen.stop:
            past = None if mask is None else mask[:, seen]
            heads = queries, take(k, seen), take(v, seen)
            partials.append(with_sinks(far, *heads, scale, past, method.sinks, causal=False))
        if causal:
            own = None if mask is None else mask[:, part]
            attend = method if part.start == 0 else replace(method, sinks=0)
            partials.append(attend._causal(queries, take(k, part), take(v, part), scale, own))
        results.append(merge(partials))
    return torch.cat([out for out, _ in results], 2), torch.cat([lse for _, lse in results], 2)
