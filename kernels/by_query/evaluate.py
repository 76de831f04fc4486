"""Attention of queries that choose their near clusters one by one: each query those of largest mass at itself.

A tile of one cluster's queries chooses, and sums the clusters that it did not choose by their summaries. Then the pairs
of a query and a cluster that it chose are sorted by cluster, and attended a cluster at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from ..common.sizes import cdiv
from ..muse.evaluate import place_of_result
from .attend import attend_pairs
from .choose import choose_near, fits

# Bytes that the partials of pairs take at once; more choices than these hold are attended one portion after the other.
PARTS = 1 << 30


def evaluate_by_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centroids: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    mass: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    scale: float,
    near: int,
    precision: str | None = None,
    padded: bool = True,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`muse.evaluate` where each query q = p_i + d chooses for itself: the `near` clusters of largest a_ij + s d.k~_ij.

    The logits are s q.k_n with value v_n for the keys of those, and a_ij + s d.k~_ij with v~_ij for all other clusters;
    of equal ones the lower index is chosen. There is no dipole, and no derivative.

    Parameters
    ----------
    q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, precision, padded, into : as in `muse.evaluate`.
    mass, mean_k, mean_v : from `muse.summarise`; of as many clusters of keys as `choose.fits` allows.
    near : clusters of every query, at least 1; with all of them the result is exact.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32. A padded query has out 0 and lse -inf.

    Bytes, operations: of `choose_near` and `attend_pairs`. Memory: a partial for every choice, up to `PARTS` bytes.
    """
    check_tensors("evaluate_by_query", q=q, k=k, v=v)
    B, Hq, Nq, D = q.shape
    Dv, Cq, Ck = v.shape[-1], centroids.shape[2], mass.shape[-1]
    check_given("evaluate_by_query", torch.float32, q, mass=(mass, (B, Hq, Cq, Ck)))
    if not fits(q, v, Ck):
        raise ValueError(
            f"evaluate_by_query: {Ck} clusters of keys with heads of {max(D, Dv)} have no place in a program here; "
            'use backend="auto", which takes torch then, or fewer clusters'
        )
    q, k, v = row_strided(q), row_strided(k), row_strided(v)
    precision, near = precision or fp32_precision(k), min(near, Ck)
    portions = min(near, cdiv(near * B * Hq * Nq * Dv * q.element_size(), PARTS))
    place = place_of_result(q, Dv, padded, into)
    choices = choose_near(
        q, centroids.contiguous(), q_order.contiguous(), q_offsets.contiguous(),
        (mass.contiguous(), mean_k.contiguous(), mean_v.contiguous()),
        scale, near, cdiv(near, max(1, portions)), place, into is not None, padded, precision,
    )  # fmt: skip
    of_keys = k_order.contiguous(), k_offsets.contiguous()
    for portion in choices:
        attend_pairs(q, k, v, portion, *of_keys, scale, place, precision)
    return place
