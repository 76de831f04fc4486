"""The dipole of the far field of every query cluster: how its mean value turns with the query."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, member_rows
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import Tile, choose


@triton.jit
def load_directions(
    basis, o_col, m_c, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr, FULL: tl.constexpr
):
    """[BC, BD]: the direction u of every column (row i, direction r); unit vectors for the full dipole."""
    o_d = tl.arange(0, BD)
    if FULL:
        b_u = ((o_col % R)[:, None] == o_d[None, :]).to(basis.dtype.element_ty)
    else:
        p_u = basis + (o_col // R)[:, None] * D * R + o_d[None, :] * R + (o_col % R)[:, None]
        b_u = tl.load(p_u, mask=m_c[:, None] & (o_d[None, :] < D), other=0.0)
    return b_u


@triton.jit
def load_far_mass(far_mass, o_row, m_row):
    """L_i of query clusters o_row [BC]; 0 where nothing is far, so that no exp(x - L_i) is undefined."""
    b_total = tl.load(far_mass + o_row, mask=m_row, other=0.0)
    return tl.where(b_total > float("-inf"), b_total, 0.0)


@triton.jit
def muse_dipole_kernel(
    k, v, centroids, basis, k_members, far, far_mass, mean_k, moment, scale, k_strides, v_strides, sizes,
    R: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr,
    BM: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC columns, each one direction of one query cluster, over SPAN key clusters of the head
    HK, NK, CK, COLS, TILES, SPAN = sizes
    k_order, k_offsets = k_members
    i_tile, i_head = tl.program_id(0) % TILES, (tl.program_id(0) // TILES).to(tl.int64)
    i_part = tl.program_id(1)
    p_k = of_head(k, k_strides, i_head // HK, i_head % HK)
    p_v = of_head(v, v_strides, i_head // HK, i_head % HK)
    o_c = i_tile * BC + tl.arange(0, BC)
    m_c = o_c < COLS
    o_col = tl.where(m_c, i_head * COLS + o_c, 0)
    o_row = o_col // R  # the query cluster of a column
    b_p = load_rows(centroids, o_row, m_c, D, D, BD)  # [BC, BD]
    b_u = load_directions(basis, o_col, m_c, D, R, BD, FULL).to(b_p.dtype)  # [BC, BD]
    b_total = load_far_mass(far_mass, o_row, m_c)  # [BC]
    b_moment = tl.zeros([BC, BDV], dtype=tl.float32)
    for i_j in range(i_part * SPAN, tl.minimum((i_part + 1) * SPAN, CK)):
        i_start, i_end = cluster_span(k_offsets + i_head * (CK + 1), i_j)
        o_j = o_row * CK + i_j
        m_far = m_c & (tl.load(far + o_j, mask=m_c, other=float("-inf")) > float("-inf"))
        b_mean = load_rows(mean_k, o_j, m_c, D, D, BD)
        b_centre = tl.sum(b_mean.to(tl.float32) * b_u.to(tl.float32), axis=1)  # [BC] u.k~_ij
        for i in range(i_start, i_end, BM):
            b_n, m_m = member_rows(k_order + i_head * NK, i, i_end, BM)
            b_k = load_rows(p_k, b_n, m_m, k_strides[2], D, BD)  # [BM, BD]
            b_v = load_rows(p_v, b_n, m_m, v_strides[2], DV, BDV)  # [BM, BDV]
            b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale - b_total[:, None]  # [BC, BM]
            b_y = tl.dot(b_u, tl.trans(b_k), input_precision=PRECISION) - b_centre[:, None]
            b_w = tl.where(m_far[:, None] & m_m[None, :], tl.exp(b_s) * b_y, 0.0)
            b_moment = tl.dot(b_w.to(b_v.dtype), b_v, b_moment, input_precision=PRECISION)
    p_moment = moment + i_part.to(tl.int64) * (tl.num_programs(0) // TILES) * COLS * DV
    store_rows(p_moment, o_col, m_c, DV, b_moment, DV, BDV)


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
        muse_dipole_kernel, (B * Hk * tiles, parts), k, v, centroids,
        centroids if basis is None else basis.contiguous(), (order.contiguous(), offsets.contiguous()),
        far.contiguous(), far_mass.contiguous(), mean_k.contiguous(), moment, scale, k.stride()[:3],
        v.stride()[:3], (Hk, Nk, Ck, columns, tiles, span), R, D, Dv, BD=BD, BDV=BDV, BC=tile.rows, BM=tile.cols,
        FULL=basis is None, PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    return moment[0] if parts == 1 else moment.sum(0)
