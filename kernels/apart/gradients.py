"""The backward of MuSe where queries and keys are apart: what each side computes of it, if need be on its own device.

`backward.muse_backward` is the same in one place. Here the gradients of the summaries go to the owner of the keys, and
those of the centroids come back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.launch import launch, target_of
from ..common.layout import row_strided
from ..common.members import member_tiles
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import Tile, choose
from ..muse.evaluate_backward import muse_summary_grad_kernel
from ..muse.key_grad import muse_key_grad_kernel
from ..muse.query_grad import muse_query_grad_kernel
from ..muse.summarise_backward import muse_centroid_grad_kernel, muse_tilt_kernel

# Order and offsets of the clusters of one side.
Sorted = tuple[Tensor, Tensor]


def summary_gradients(
    q: Tensor, centroids: Tensor, q_sorted: Sorted, far: Tensor, mean_k: Tensor, mean_v: Tensor, lse: Tensor,
    dout: Tensor, delta: Tensor, scale: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """At the queries: the gradients of the far masses, [B, Hq, Cq, Ck] in fp32, and of the tilted means, in that of q.

    Shapes as in `evaluate`; lse and delta [B, Hq, Nq] over all keys of a query, dout [B, Hq, Nq, Dv].
    """
    (B, Hq, Nq, D), Dv, (Cq, Ck) = q.shape, mean_v.shape[-1], far.shape[2:]
    q, dout, sizes, pick = row_strided(q), row_strided(dout), *_tiles(q, Dv)
    made = torch.empty_like(far), *(q.new_empty(*far.shape, width) for width in (D, Dv))
    tile = pick("summary_grad")
    tiles = cdiv(Ck, tile.rows)
    launch(
        muse_summary_grad_kernel, (B * Hq * Cq * tiles,),
        q, centroids.contiguous(), q_sorted, far, mean_k, mean_v, lse, dout, delta, *made, scale,
        q.stride()[:3], dout.stride()[:3], (Hq, Nq, Cq, Ck, tiles), D, Dv,
        **sizes, BC=tile.rows, BM=tile.cols, PRECISION=precision, tile=tile,
    )  # fmt: skip
    return made


def key_gradients(
    k: Tensor, v: Tensor, centroids: Tensor, k_sorted: Sorted, summaries: tuple[Tensor, Tensor, Tensor],
    d_summaries: tuple[Tensor, Tensor, Tensor], scale: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """At the keys: what the gradients of `summarise`'s results give for the centroids, k and v.

    That of the centroids, [B, Hq, Cq, D] in fp32, leaves out what the displacements of the queries cancel, as
    `query_gradients` does: with both, dq is whole. d_summaries as `summary_gradients` returns them.
    """
    (B, Hk, Nk, D), Dv, (Hq, Cq, Ck) = k.shape, v.shape[-1], summaries[0].shape[1:]
    (mass, mean_k, mean_v), (d_mass, d_mean_k, d_mean_v) = summaries, (x.contiguous() for x in d_summaries)
    k, v, centroids, rows = row_strided(k), row_strided(v), centroids.contiguous(), Hq // Hk * Cq
    sizes, pick = _tiles(k, Dv)
    tilt, d_centroids = torch.empty_like(mass), mass.new_empty(B, Hq, Cq, D)
    tile = pick("tilt")
    launch(
        muse_tilt_kernel, (B * Hq * Cq,),
        mass, mass, mean_k, mean_v, d_mean_k, d_mean_v, centroids, mass, mass, tilt, d_centroids, scale, Ck,
        D, Dv, D, **sizes, BR=sizes["BD"], BN=tile.cols, DIPOLE=False, FULL=True, tile=tile,
    )  # fmt: skip
    tile = pick("centroid_grad")
    tiles = cdiv(rows, tile.rows)
    span, parts = spans(Ck, B * Hk * tiles)
    partial = mass.new_empty(parts, B, Hq, Cq, D)
    launch(
        muse_centroid_grad_kernel, (B * Hk * tiles, parts),
        k, v, centroids, k_sorted, mass, tilt, d_mean_k, d_mean_v, partial, scale, k.stride()[:3], v.stride()[:3],
        (Hk, Nk, Ck, rows, tiles, span), D, Dv,
        **sizes, BC=tile.rows, BM=tile.cols, PRECISION=precision, tile=tile,
    )  # fmt: skip
    # Without a near field, whatever stands for the queries is not read.
    no_queries = k, k_sorted, (mass, k, mass)
    d_all = tilt, d_mass, d_mean_k, d_mean_v
    dk, dv = _key_grad(
        k,
        v,
        centroids,
        k_sorted,
        *no_queries,
        (mass, mass, mean_k, mean_v),
        d_all,
        (0, Cq),
        False,
        scale,
        precision,
    )
    return partial.sum(0), dk, dv


def near_gradients(
    q: Tensor, q_sorted: Sorted, k: Tensor, v: Tensor, k_sorted: Sorted, far: Tensor, lse: Tensor, dout: Tensor,
    delta: Tensor, scale: float, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """At the queries: dk and dv of the keys that they attended to exactly, those of the clusters with far -inf."""
    d_all = far, far, far, far  # without summaries they are not read
    queries = row_strided(q), q_sorted, (lse, row_strided(dout), delta)
    return _key_grad(
        row_strided(k), row_strided(v), far, k_sorted, *queries, (far, far, far, far), d_all,
        (q.shape[2], far.shape[2]), True, scale, precision,
    )  # fmt: skip


def _key_grad(
    k: Tensor, v: Tensor, centroids: Tensor, k_sorted: Sorted, q: Tensor, q_sorted: Sorted, upstream: tuple,
    summaries: tuple, d_all: tuple, of_queries: tuple[int, int], near: bool, scale: float, precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Launch the gradients of k and v, of the near field alone or of the summaries alone."""
    (B, Hk, Nk, D), Dv, (mass, far, mean_k, mean_v) = k.shape, v.shape[-1], summaries
    (lse, dout, delta), (Nq, Cq), (Hq, Ck) = upstream, of_queries, (mass.shape[1], mass.shape[-1])
    # Padding is in no tile, so the gradients start from zero.
    dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
    sizes, pick = _tiles(k, Dv)
    tile = pick("key_grad")
    tiles = member_tiles(Nk, Ck, tile.rows)
    launch(
        muse_key_grad_kernel, (B * Hk * tiles,),
        q, k, v, centroids, q_sorted, k_sorted, (mass, far, mass, mean_k, mean_v), d_all, centroids, mass, lse, dout,
        delta, dk, dv, scale, q.stride()[:3], k.stride()[:3], v.stride()[:3], dout.stride()[:3],
        (Hk, Hq // Hk, Nq, Nk, Cq, Ck, Hq // Hk * Cq, tiles), D, Dv, D,
        **sizes, BINS=power_of_two(Ck), BM=tile.rows, BC=tile.cols, NEAR=near, DIPOLE=False,
        FULL=True, PRECISION=precision, FAR=not near, tile=tile,
    )  # fmt: skip
    return dk, dv


def query_gradients(
    q: Tensor, k: Tensor, v: Tensor, centroids: Tensor, q_sorted: Sorted, k_sorted: Sorted,
    summaries: tuple[Tensor, Tensor, Tensor, Tensor], lse: Tensor, dout: Tensor, delta: Tensor, d_centroids: Tensor,
    scale: float, precision: str,
) -> Tensor:  # fmt: skip
    """At the queries: dq, from near, far, mean_k and mean_v as `evaluate` takes them, and the centroids' gradient."""
    (B, Hq, Nq, D), (Hk, Nk), Dv, (Cq, Ck) = q.shape, k.shape[1:3], v.shape[-1], summaries[1].shape[2:]
    q, k, v, dout = (row_strided(x) for x in (q, k, v, dout))
    sizes, pick = _tiles(q, Dv)
    dq = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    tile = pick("query_grad")
    tiles = member_tiles(Nq, Cq, tile.rows)
    launch(
        muse_query_grad_kernel, (B * Hq * tiles,),
        q, k, v, centroids.contiguous(), q_sorted, k_sorted, summaries, (q, lse, lse), lse, dout, delta, delta,
        d_centroids.contiguous(), dq, scale, q.stride()[:3], k.stride()[:3], v.stride()[:3], dout.stride()[:3],
        (Hq, Hq // Hk, Nq, Nk, Cq, Ck, summaries[0].shape[-1], tiles), D, Dv, D,
        **sizes, BR=sizes["BD"], BINS=power_of_two(Cq), BM=tile.rows, BN=tile.cols, DIPOLE=False, FULL=True,
        PRECISION=precision, tile=tile,
    )  # fmt: skip
    return dq


def _tiles(x: Tensor, Dv: int):
    """The edges of tiles over the heads, and what picks a tile for a kernel's name."""
    BD, BDV = power_of_two(x.shape[-1]), power_of_two(Dv)

    def pick(kernel: str) -> Tile:
        return choose(kernel, target_of(x), max(BD, BDV), x.element_size())

    return {"BD": BD, "BDV": BDV}, pick
