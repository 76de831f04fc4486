"""The launches of MuSe's backward, in the order in which their results are needed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.delta import output_delta
from ..common.launch import launch, plain_when_wide, target_of
from ..common.layout import row_strided
from ..common.members import member_tiles
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import Tile, choose
from .basis_grad import muse_basis_grad_kernel
from .evaluate_backward import muse_far_delta_kernel, muse_moment_grad_kernel, muse_summary_grad_kernel
from .key_grad import muse_key_grad_kernel
from .query_grad import muse_query_grad_kernel
from .summarise_backward import muse_centroid_grad_kernel, muse_moment_centroid_grad_kernel, muse_tilt_kernel


def muse_backward(
    q: Tensor, k: Tensor, v: Tensor, centroids: Tensor,
    q_order: Tensor, q_offsets: Tensor, k_order: Tensor, k_offsets: Tensor,
    mass: Tensor, near: Tensor, far: Tensor, far_mass: Tensor, mean_k: Tensor, mean_v: Tensor,
    out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None,
    scale: float, basis: Tensor | None, moment: Tensor | None, share: Tensor | None,
    precision: str, delta: Tensor | None = None, directions: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of q, k and v from those of out and lse, and with `directions` of the basis (else None).

    With P the softmax, dP = do.v~ (+ do.(s M d) under a dipole) or do.v_n, delta = do.out - dlse:
    ds = P (dP - delta);  da_ij = sum_q ds;  dk~_ij = s sum_q ds d;  dv~_ij = sum_q P do;
    ds_n = w_n (da + dk~.(k_n - k~) + dv~.(v_n - v~));  dk_n = sum_i w_n dk~ + s ds_n p_i + near part;
    dv_n = sum_i w_n dv~ + near part;  dp_i = s sum_n ds_n k_n - sum_q dd;
    dq = dd + near part + dp_i / n_i, with dd = s sum_j ds k~_ij.
    The dipole Z_i = M_i U_i adds, with w = exp(s p_i.k_n - L_i), y = u.(k_n - k~), e = dZ.(v_n - v~):
    dk_n += w e u + s w y e p_i, dv_n += w y dZ, dp_i += s w y e k_n, da_ij -= pi_ij <Z, dZ>.
    The directions: du_ir = s sum_q share (Z_ir.do) d + sum_n w e k_n.

    Shapes as in `muse`, `summarise`, `select_near`, `evaluate` and `dipole`; dlse may be None. Where these keys are
    only some of a query's, lse is that of all and delta [B, Hq, Nq] is given; out and dlse are not read then.

    Bytes: q, k, v, out, dout and the gradients once; summaries and their gradients (fp32) three times, and so the
    moment and its gradient (fp32) and U.
    Operations (D = Dv): Hq Nq 14 D (C + near Nk / C) for queries, Hq Nk C 20 D for keys; a dipole adds Hq Nq 12 D r
    and Hq Nk C 20 D r, its directions Hq Nq 4 D r and Hq Nk C 6 D r.
    """
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv, Cq, Ck = k.shape[1], k.shape[2], v.shape[-1], centroids.shape[2], far.shape[-1]
    G, R, rows = Hq // Hk, D if basis is None else basis.shape[-1], Hq // Hk * Cq
    dipole, full = moment is not None, basis is None
    q, k, v, dout, centroids = (*(row_strided(x) for x in (q, k, v, dout)), centroids.contiguous())
    q_members = q_order.contiguous(), q_offsets.contiguous()
    k_members = k_order.contiguous(), k_offsets.contiguous()
    basis = centroids if basis is None else basis.contiguous()
    q_strides, k_strides, v_strides, dout_strides = (x.stride()[:3] for x in (q, k, v, dout))
    BD, BDV, BR = power_of_two(D), power_of_two(Dv), power_of_two(R)
    sizes = {"BD": BD, "BDV": BDV}
    target, width = target_of(q), q.element_size()
    dipole_precision = plain_when_wide(precision, max(BD, BDV))

    def fp32(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=q.device)

    def pick(kernel: str) -> Tile:
        return choose(kernel, target, max(BD, BDV), width)

    z = moment if dipole else lse
    delta_far = delta = output_delta(out, dout, dlse) if delta is None else delta
    if dipole:
        delta_far, tile = fp32(B, Hq, Nq), pick("delta")
        tiles = member_tiles(Nq, Cq, tile.rows)
        launch(
            muse_far_delta_kernel, (B * Hq * tiles,),
            q, centroids, basis, moment, q_members, dout, delta, delta_far, scale, q_strides, dout_strides,
            (Hq, Nq, Cq, tiles), D, Dv, R, **sizes, BR=BR, BINS=power_of_two(Cq), BM=tile.rows,
            FULL=full, PRECISION=precision, tile=tile,
        )  # fmt: skip
    d_mass, d_mean_k, d_mean_v = fp32(B, Hq, Cq, Ck), fp32(B, Hq, Cq, Ck, D), fp32(B, Hq, Cq, Ck, Dv)
    tile = pick("summary_grad")
    tiles = cdiv(Ck, tile.rows)
    launch(
        muse_summary_grad_kernel, (B * Hq * Cq * tiles,),
        q, centroids, q_members, far, mean_k, mean_v, lse, dout, delta_far, d_mass, d_mean_k, d_mean_v, scale,
        q_strides, dout_strides, (Hq, Nq, Cq, Ck, tiles), D, Dv,
        **sizes, BC=tile.rows, BM=tile.cols, PRECISION=precision, tile=tile,
    )  # fmt: skip
    d_moment = delta
    if dipole:
        d_moment, tile = fp32(B, Hq, Cq, R, Dv), pick("moment_grad")
        launch(
            muse_moment_grad_kernel, (B * Hq * Cq,),
            q, centroids, basis, q_members, share, dout, d_moment, scale, q_strides, dout_strides, (Hq, Nq, Cq),
            D, Dv, R, **sizes, BR=BR, BM=tile.cols, FULL=full, PRECISION=precision, tile=tile,
        )  # fmt: skip
    tile = pick("tilt")
    tilt, d_centroids = fp32(B, Hq, Cq, Ck), fp32(B, Hq, Cq, D)
    launch(
        muse_tilt_kernel, (B * Hq * Cq,),
        far, far_mass, mean_k, mean_v, d_mean_k, d_mean_v, basis, z, d_moment, tilt, d_centroids, scale, Ck,
        D, Dv, R, **sizes, BR=BR, BN=tile.cols, DIPOLE=dipole, FULL=full, tile=tile,
    )  # fmt: skip
    tile = pick("centroid_grad")
    tiles = cdiv(rows, tile.rows)
    span, parts = spans(Ck, B * Hk * tiles)
    partial = fp32(parts, B, Hq, Cq, D)
    launch(
        muse_centroid_grad_kernel, (B * Hk * tiles, parts),
        k, v, centroids, k_members, mass, tilt, d_mean_k, d_mean_v, partial, scale, k_strides, v_strides,
        (Hk, Nk, Ck, rows, tiles, span), D, Dv,
        **sizes, BC=tile.rows, BM=tile.cols, PRECISION=precision, tile=tile,
    )  # fmt: skip
    d_centroids += partial.sum(0)
    columns, d_basis = {}, None
    if dipole:
        for of_directions in (False, True) if directions else (False,):
            tile = pick("moment_basis_grad" if of_directions else "moment_centroid_grad")
            tiles = cdiv(rows * R, tile.rows)
            span, parts = spans(Ck, B * Hk * tiles)
            columns[of_directions] = d_columns = fp32(parts, B, Hq, Cq, R, D)
            launch(
                muse_moment_centroid_grad_kernel, (B * Hk * tiles, parts),
                k, v, centroids, basis, k_members, far, far_mass, mean_k, mean_v, d_moment, d_columns, scale,
                k_strides, v_strides, (Hk, Nk, Ck, rows * R, tiles, span), R, D, Dv, **sizes, BC=tile.rows,
                BM=tile.cols, FULL=full, DIRECTIONS=of_directions, PRECISION=dipole_precision, tile=tile,
            )  # fmt: skip
        d_centroids += columns[False].sum((0, 4))
    if directions:
        d_basis, tile = columns[True].sum(0), pick("basis_grad")
        launch(
            muse_basis_grad_kernel, (B * Hq * Cq,),
            q, centroids, moment, q_members, share, dout, d_basis, scale, q_strides, dout_strides, (Hq, Nq, Cq),
            D, Dv, R, BD=BD, BR=BR, BM=tile.cols, PRECISION=precision, tile=tile,
        )  # fmt: skip
        d_basis = d_basis.mT  # [B, Hq, Cq, D, R], as the basis is

    # Padding is in no tile, so the gradients start from zero.
    dq = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.zeros(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.zeros(v.shape, dtype=v.dtype, device=v.device)
    tile = pick("key_grad_dipole" if dipole else "key_grad")
    tiles = member_tiles(Nk, Ck, tile.rows)
    launch(
        muse_key_grad_kernel, (B * Hk * tiles,),
        q, k, v, centroids, q_members, k_members, (mass, far, far_mass, mean_k, mean_v),
        (tilt, d_mass, d_mean_k, d_mean_v), basis, d_moment, lse, dout, delta, dk, dv, scale,
        q_strides, k_strides, v_strides, dout_strides, (Hk, G, Nq, Nk, Cq, Ck, rows, tiles), D, Dv, R,
        **sizes, BINS=power_of_two(Ck), BM=tile.rows, BC=tile.cols, NEAR=near.shape[-1] > 0, DIPOLE=dipole,
        FULL=full, PRECISION=dipole_precision if dipole else precision, FAR=True, tile=tile,
    )  # fmt: skip
    tile = pick("query_grad_dipole" if dipole else "query_grad")
    tiles = member_tiles(Nq, Cq, tile.rows)
    launch(
        muse_query_grad_kernel, (B * Hq * tiles,),
        q, k, v, centroids, q_members, k_members, (near, far, mean_k, mean_v),
        (basis, z, lse if share is None else share), lse, dout, delta, delta_far, d_centroids, dq, scale,
        q_strides, k_strides, v_strides, dout_strides, (Hq, G, Nq, Nk, Cq, Ck, near.shape[-1], tiles), D, Dv, R,
        **sizes, BR=BR, BINS=power_of_two(Cq), BM=tile.rows, BN=tile.cols,
        DIPOLE=dipole, FULL=full, PRECISION=precision, tile=tile,
    )  # fmt: skip
    return dq, dk, dv, d_basis
