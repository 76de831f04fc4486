"""The dipole of the far field of every query cluster: how its mean value turns with the query."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import Tile, choose


@triton.jit
def load_direction(basis, o_col, m_c, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, FULL: tl.constexpr):
    """[BC, BD]: the direction u of every column (row i, direction r); unit vectors for the full dipole."""
    o_d = tl.arange(0, BD)
    if FULL:
        b_u = ((o_col % R)[:, None] == o_d[None, :]).to(basis.dtype.element_ty)
    else:
        b_u = tl.load(
            basis + (o_col // R)[:, None] * D * R + o_d[None, :] * R + (o_col % R)[:, None],
            mask=m_c[:, None] & (o_d[None, :] < D),
            other=0.0,
        )
    return b_u


@triton.jit
def _dipole_kernel(
    k, v, centroids, basis, order, offsets, far, far_mass, mean_k, moment, scale, stride_kb, stride_kh,
    stride_kn, stride_vb, stride_vh, stride_vn, HK, NK, CK, COLS, R: tl.constexpr, D: tl.constexpr,
    DV: tl.constexpr, TILES, SPAN, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
    FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC columns, each one direction of one query cluster, over SPAN key clusters of the head
    i_tile, i_head = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_part = tl.program_id(1)
    o_c, o_d, o_dv, o_m = (
        i_tile * BC + tl.arange(0, BC),
        tl.arange(0, BD),
        tl.arange(0, BDV),
        tl.arange(0, BM),
    )
    m_c, m_d, m_dv = o_c < COLS, o_d < D, o_dv < DV
    p_k = k + (i_head // HK) * stride_kb + (i_head % HK) * stride_kh
    p_v = v + (i_head // HK) * stride_vb + (i_head % HK) * stride_vh
    o_col = tl.where(m_c, i_head * COLS + o_c, 0)
    o_row = o_col // R  # the query cluster of a column
    m_cd = m_c[:, None] & m_d[None, :]
    b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_cd, other=0.0)  # [BC, BD]
    b_u = load_direction(basis, o_col, m_c, D, R, BD, FULL).to(b_p.dtype)  # [BC, BD]
    b_total = tl.load(far_mass + o_row, mask=m_c, other=0.0)  # [BC]
    b_total = tl.where(b_total > float("-inf"), b_total, 0.0)
    b_moment = tl.zeros([BC, BDV], dtype=tl.float32)
    for i_j in range(i_part * SPAN, tl.minimum((i_part + 1) * SPAN, CK)):
        i_start = tl.load(offsets + i_head * (CK + 1) + i_j)
        i_end = tl.load(offsets + i_head * (CK + 1) + i_j + 1)
        m_far = m_c & (tl.load(far + o_row * CK + i_j, mask=m_c, other=float("-inf")) > float("-inf"))
        b_mean = tl.load(mean_k + (o_row * CK + i_j)[:, None] * D + o_d[None, :], mask=m_cd, other=0.0)
        b_centre = tl.sum(b_mean.to(tl.float32) * b_u.to(tl.float32), axis=1)  # [BC] u.k~_ij
        for i in range(i_start, i_end, BM):
            m_m = i + o_m < i_end
            b_n = tl.load(order + i_head * NK + i + o_m, mask=m_m, other=0)
            # [BM, BD], [BM, BDV]
            b_k = tl.load(
                p_k + b_n[:, None] * stride_kn + o_d[None, :], mask=m_m[:, None] & m_d[None, :], other=0.0
            )
            b_v = tl.load(
                p_v + b_n[:, None] * stride_vn + o_dv[None, :], mask=m_m[:, None] & m_dv[None, :], other=0.0
            )
            b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale - b_total[:, None]  # [BC, BM]
            b_y = tl.dot(b_u, tl.trans(b_k), input_precision=PRECISION) - b_centre[:, None]
            b_w = tl.where(m_far[:, None] & m_m[None, :], tl.exp(b_s) * b_y, 0.0)
            b_moment = tl.dot(b_w.to(b_v.dtype), b_v, b_moment, input_precision=PRECISION)
    p_moment = moment + i_part.to(tl.int64) * (tl.num_programs(0) // TILES) * COLS * DV
    tl.store(p_moment + o_col[:, None] * DV + o_dv[None, :], b_moment, mask=m_c[:, None] & m_dv[None, :])


def dipole(
    centroids: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    offsets: Tensor,
    far: Tensor,
    far_mass: Tensor,
    mean_k: Tensor,
    basis: Tensor | None,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> Tensor:
    """The far dipole of every query cluster i along its directions u_r.

    M_i u_r = sum_{j far} pi_ij M_ij u_r = sum_{n far} exp(s p_i.k_n - L_i) (u_r.(k_n - k~_ij)) v_n, with
    pi_ij = exp(a_ij - L_i) and L_i = log sum_{j far} exp a_ij.

    Parameters
    ----------
    centroids, k, v, order, offsets, scale, precision : as in `summarise`.
    far [B, Hq, Cq, Ck], far_mass [B, Hq, Cq] : from `select_near`. mean_k : from `summarise`.
    basis : U [B, Hq, Cq, D, r] in the dtype of k, or None for the full dipole (r = D, U the identity).

    Returns
    -------
    moment [B, Hq, Cq, r, Dv] fp32: row r is M_i u_r.

    The key clusters are divided among so many programs that a large device is filled; their parts are added in order.

    Bytes: K, V and order for every tile of columns (L2), mean_k, 4 B Hq Cq r Dv written by every part.
    Operations: B Hq Nk Cq r (4 D + 2 Dv).
    """
    check_tensors("dipole", centroids=centroids, k=k, v=v)
    B, Hk, Nk, D = k.shape
    Dv, Hq, Cq, Ck = v.shape[-1], centroids.shape[1], centroids.shape[2], offsets.shape[-1] - 1
    R = D if basis is None else basis.shape[-1]
    k, v, centroids = row_strided(k), row_strided(v), centroids.contiguous()
    BD, BDV, columns = power_of_two(D), power_of_two(Dv), Hq // Hk * Cq * R
    tile = choose("dipole", target_of(k), max(BD, BDV), k.element_size(), tile)
    tiles = cdiv(columns, tile.rows)
    span, parts = spans(Ck, B * Hk * tiles)
    moment = torch.empty(parts, B, Hq, Cq, R, Dv, dtype=torch.float32, device=k.device)
    launch(
        _dipole_kernel, (B * Hk * tiles, parts), k, v, centroids,
        centroids if basis is None else basis.contiguous(), order.contiguous(), offsets.contiguous(),
        far.contiguous(), far_mass.contiguous(), mean_k.contiguous(), moment, scale, *k.stride()[:3],
        *v.stride()[:3], Hk, Nk, Ck, columns, R, D, Dv, tiles, span, BD=BD, BDV=BDV, BC=tile.rows, BM=tile.cols,
        FULL=basis is None, PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    return moment[0] if parts == 1 else moment.sum(0)
