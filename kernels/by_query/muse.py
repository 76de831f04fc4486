"""MuSe attention of given query and key clusters, where every query chooses its near clusters for itself."""

from __future__ import annotations

from torch import Tensor

from ..common.checks import check_attention, check_given, check_sorts, check_tensors
from ..common.derivatives import check_tangents
from ..common.launch import fp32_precision
from ..common.layout import row_strided
from ..muse.forward import one_head_size
from ..muse.summarise import summarise
from .evaluate import evaluate_by_query


def muse_by_query(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_centroids: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    scale: float,
    near: int,
    padded: bool = True,
) -> tuple[Tensor, Tensor]:
    """`muse.muse` with the choice of `evaluate_by_query`, a monopole without a derivative; arguments as there.

    Raises
    ------
    ValueError : also for more clusters of keys than a program has place for (`choose.fits`).
    """
    check_tensors("muse_by_query", q=q, k=k, v=v)
    check_attention("muse_by_query", q, k, v)
    check_tangents("muse_by_query", q, k, v)
    sorts = q_order, q_offsets, k_order, k_offsets
    check_sorts("muse_by_query", q, q.shape[:3], k.shape[:3], *sorts)
    points = *q.shape[:2], q_offsets.shape[-1] - 1, q.shape[-1]
    check_given("muse_by_query", q_centroids.dtype, q, q_centroids=(q_centroids, points))
    size, precision = v.shape[-1], fp32_precision(q)
    given = (x.detach() for x in (q, k, v, q_centroids.to(q.dtype)))
    q, k, v, centroids = (row_strided(x) for x in one_head_size(*given))
    summaries = summarise(centroids, k, v, k_order, k_offsets, scale, precision=precision)
    out, lse = evaluate_by_query(
        q, k, v, centroids, *sorts, *summaries, scale, near, precision=precision, padded=padded
    )
    return out[..., :size], lse
