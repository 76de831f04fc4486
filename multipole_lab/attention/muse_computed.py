"""What computes MuSe: the kernels or the formula, at once or block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multipole_lab.attention import muse_kernels as kernels
from multipole_lab.attention.causal import block_sizes, causal_attention
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.points import from_earlier
from multipole_lab.attention.clusters.slots import Labels, Slots
from multipole_lab.attention.exact import exact_causal, exact_partial
from multipole_lab.attention.muse_formula import muse_recomputed
from multipole_lab.attention.partials import Partial

if TYPE_CHECKING:
    from multipole_lab.attention.muse import MuSe

# Of a method, q, k, v, the scale and a mask [B, Nk] or None.
Implementation = Callable[["MuSe", Tensor, Tensor, Tensor, float, Tensor | None], Partial]


def implementation(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool
) -> Implementation:
    """What computes the attention of these queries over these keys, behind the sinks: the first line that fits.

    Causal attention block by block asks again, for the full attention of every block.
    """
    triton = method._by_kernels(q, k, v, causal)
    one_leaf = causal and k.shape[2] <= method.leaf
    one_pass = mask is None and method.order == "monopole" and q.shape[2] == k.shape[2]
    in_runs = triton and mask is None and not one_leaf and kernels.in_runs(method, q, k, v, causal)
    by_levels = causal and triton and one_pass and method.points == "own"
    in_place = by_levels and _merges_in_place(method, q.shape[2])
    table = (
        # attention, backend and what else must hold     computed by
        (one_leaf,                                       _exact),
        (not causal and not triton,                      _formula),
        (not causal and triton and in_runs,              kernels.full_runs),
        (not causal and triton,                          kernels.full),
        (by_levels and in_runs,                          kernels.causal_runs),
        (in_place,                                       kernels.causal),
        (causal,                                         _block_by_block),
    )  # fmt: skip
    return next(computed_by for holds, computed_by in table if holds)


def _merges_in_place(method: MuSe, positions: int) -> bool:
    """Whether the kernels have place for the clusters that merge, where any do; otherwise torch merges them."""
    from multipole_lab.kernels.clustering.merge import MOST

    return not method._merged or method._partition.number(block_sizes(positions, method.leaf)[0]) <= MOST


def attend(
    method: MuSe, causal: bool, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> Partial:
    return implementation(method, q, k, v, mask, causal)(method, q, k, v, scale, mask)


def _exact(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
    return exact_causal(q, k, v, scale, mask, method.backend)


def _exact_past(method: MuSe, q, k, v, scale: float, mask: Tensor | None) -> Partial:
    return exact_partial(q, k, v, scale, mask=mask, backend=method.backend)


def _formula(
    method: MuSe,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    labels: tuple[Labels, Labels] | None = None,
    points: Tensor | None = None,
) -> Partial:
    of_queries, of_keys = labels or (method._query_partition.found(q), method._partition.found(k, mask))
    every_key = torch.ones_like(k[..., 0], dtype=torch.bool)
    kept = every_key if mask is None else mask[:, None].expand(k.shape[:3])
    clusters = Assignments(Slots.laid_out(of_queries), Slots.laid_out(of_keys), kept)
    expansion = method._expansion(scale, q.shape[-1])
    if points is None:
        return muse_recomputed(q, k, v, clusters, expansion)
    n, expansion = q.shape[2], replace(expansion, points=points.shape[2])
    out, lse = muse_recomputed(torch.cat([q, points.to(q.dtype)], 2), k, v, clusters, expansion)
    return out[:, :, :n], lse[:, :, :n]


def _around_earlier(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, earlier: Tensor
) -> Partial:
    if method._by_kernels(q, k, v, True):
        return kernels.around_earlier(method, q, k, v, scale, mask, earlier)
    of_queries, points = from_earlier(method._query_partition, earlier, q)
    return _formula(method, q, k, v, scale, mask, (of_queries, method._partition.found(k, mask)), points)


def _block_by_block(
    method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> Partial:
    """Level after level; where all of that is the kernels', all levels repeat as one graph."""
    compute = kernels.in_graphs(_of_blocks) if method._by_kernels(q, k, v, True) else _of_blocks
    return compute(method, q, k, v, scale, mask)


def _of_blocks(method: MuSe, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Partial:
    full = partial(attend, method, False)
    if method.points == "earlier":  # in this call no queries are earlier than its first one
        full, past = partial(_around_earlier, method), partial(_exact_past, method)
        return causal_attention(full, q, k, v, scale, mask, method.leaf, past, method.backend, earlier=True)
    if not method._merged:
        return causal_attention(full, q, k, v, scale, mask, method.leaf, backend=method.backend)
    of_level = partial(kernels.of_labels if method._by_kernels(q, k, v, True) else _formula, method)
    return causal_attention(
        of_level, q, k, v, scale, mask, method.leaf, full, method.backend, labels=method._level_labels
    )
