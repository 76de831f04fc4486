"""The dipole of the far field of every query cluster: how its mean value turns with the query."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.members import member_rows
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two, spans
from ..common.tiles import Tile, choose

# Query clusters whose logits a program holds; with more columns it holds several directions of each.
BLOCK = 64


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
def muse_dipole_means_kernel(
    basis, far, far_mass, mean_k, mean_v, centre, between, sizes,
    R: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr,
    BJ: tl.constexpr, FULL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BR directions of one query cluster, over the means of its key clusters
    ROWS, CK = sizes
    i_row, o_j = tl.program_id(0).to(tl.int64), tl.arange(0, BJ)
    o_r = tl.program_id(1) * BR + tl.arange(0, BR)
    m_r = o_r < R
    b_total = load_far_mass(far_mass, i_row, i_row < ROWS)
    b_u = tl.trans(load_directions(basis, i_row * R + o_r, m_r, D, R, BD, FULL).to(mean_k.dtype.element_ty))
    b_centre = tl.zeros([BR], dtype=tl.float32)
    for i in range(0, CK, BJ):
        o_row, m_j = i_row * CK + i + o_j, i + o_j < CK
        b_pi = tl.exp(tl.load(far + o_row, mask=m_j, other=float("-inf")) - b_total)  # [BJ]
        b_y = tl.dot(load_rows(mean_k, o_row, m_j, D, D, BD), b_u, input_precision=PRECISION)  # [BJ, BR]
        b_centre += tl.sum(b_pi[:, None] * b_y, axis=0)
    b_between = tl.zeros([BR, BDV], dtype=tl.float32)
    for i in range(0, CK, BJ):
        o_row, m_j = i_row * CK + i + o_j, i + o_j < CK
        b_pi = tl.exp(tl.load(far + o_row, mask=m_j, other=float("-inf")) - b_total)
        b_y = tl.dot(load_rows(mean_k, o_row, m_j, D, D, BD), b_u, input_precision=PRECISION)
        b_v = load_rows(mean_v, o_row, m_j, DV, DV, BDV)
        b_w = (b_pi[:, None] * (b_centre[None, :] - b_y)).to(b_v.dtype)
        b_between = tl.dot(tl.trans(b_w), b_v, b_between, input_precision=PRECISION)
    tl.store(centre + i_row * R + o_r, b_centre, mask=m_r)
    store_rows(between, i_row * R + o_r, m_r, DV, b_between, DV, BDV)


@triton.jit
def muse_dipole_kernel(
    k, v, centroids, basis, k_members, far, far_mass, centre, moment, scale, k_strides, v_strides, sizes,
    R: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BI: tl.constexpr,
    BR: tl.constexpr, BM: tl.constexpr, BINS: tl.constexpr, NEAR: tl.constexpr, FULL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BR directions of BI query clusters, over SPAN keys of the head, sorted by cluster
    HK, NK, CK, ROWS, TILES, GROUPS, SPAN = sizes
    k_order, k_offsets = k_members
    i_tile, i_group = tl.program_id(0) % TILES, tl.program_id(0) // TILES % GROUPS
    i_head = (tl.program_id(0) // TILES // GROUPS).to(tl.int64)
    i_part = tl.program_id(1)
    p_k = of_head(k, k_strides, i_head // HK, i_head % HK)
    p_v = of_head(v, v_strides, i_head // HK, i_head % HK)
    p_offset = k_offsets + i_head * (CK + 1)
    o_i = i_tile * BI + tl.arange(0, BI)
    m_i = o_i < ROWS
    o_row = tl.where(m_i, i_head * ROWS + o_i, 0)  # query clusters
    o_c = tl.arange(0, BR * BI)  # columns: one direction after the other
    i_r, i_c = i_group * BR + o_c // BI, i_tile * BI + o_c % BI
    m_c = (i_r < R) & (i_c < ROWS)
    o_col = tl.where(m_c, (i_head * ROWS + i_c) * R + i_r, 0)
    b_p = load_rows(centroids, o_row, m_i, D, D, BD)  # [BI, BD]
    b_u = load_directions(basis, o_col, m_c, D, R, BD, FULL).to(b_p.dtype)  # [BR BI, BD]
    b_total = load_far_mass(far_mass, o_row, m_i)  # [BI]
    b_centre = tl.load(centre + o_col, mask=m_c, other=0.0)
    b_moment = tl.zeros([BR * BI, BDV], dtype=tl.float32)
    i_end = tl.minimum(tl.load(p_offset + CK), (i_part + 1) * SPAN)
    for i in range(i_part * SPAN, i_end, BM):
        b_n, m_m = member_rows(k_order + i_head * NK, i, i_end, BM)
        b_k = load_rows(p_k, b_n, m_m, k_strides[2], D, BD)  # [BM, BD]
        b_v = load_rows(p_v, b_n, m_m, v_strides[2], DV, BDV)  # [BM, BDV]
        m_far = m_i[:, None] & m_m[None, :]
        if NEAR:  # the cluster of a sorted key is the number of those that end before it
            o_j = tl.arange(0, BINS)
            b_last = tl.load(p_offset + 1 + o_j, mask=o_j < CK, other=1 << 62)
            b_j = tl.sum((b_last[None, :] <= (i + tl.arange(0, BM))[:, None]).to(tl.int32), axis=1)
            b_a = tl.load(far + o_row[:, None] * CK + b_j[None, :], mask=m_far, other=float("-inf"))
            m_far = b_a > float("-inf")
        b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale - b_total[:, None]  # [BI, BM]
        b_w = tl.where(m_far, tl.exp(b_s), 0.0)
        b_w = tl.reshape(tl.broadcast_to(b_w[None, :, :], (BR, BI, BM)), (BR * BI, BM))
        b_y = tl.dot(b_u, tl.trans(b_k), input_precision=PRECISION) - b_centre[:, None]
        b_moment = tl.dot((b_w * b_y).to(b_v.dtype), b_v, b_moment, input_precision=PRECISION)
    p_moment = moment + (i_part * (tl.num_programs(0) // TILES // GROUPS)).to(tl.int64) * ROWS * R * DV
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
    mean_v: Tensor,
    basis: Tensor | None,
    scale: float,
    near: bool = True,
    tile: Tile | None = None,
    precision: str | None = None,
) -> Tensor:
    """The far dipole of every query cluster i along its directions u_r.

    M_i u_r = sum_{j far} pi_ij M_ij u_r
            = sum_{n far} w_in (u_r.k_n - c_ir) v_n - sum_{j far} pi_ij (u_r.k~_ij - c_ir) v~_ij
    with w_in = exp(s p_i.k_n - L_i), pi_ij = exp(a_ij - L_i) and L_i = log sum_{j far} exp a_ij. The first sum needs no
    clusters. Any c_ir gives the same; their mean over the far keys, sum_j pi_ij u_r.k~_ij, keeps both sums small.

    Parameters
    ----------
    centroids, k, v, order, offsets, scale, precision : as in `summarise`.
    far [B, Hq, Cq, Ck], far_mass [B, Hq, Cq] : from `select_near`. mean_k, mean_v : from `summarise`.
    basis : U [B, Hq, Cq, D, r] in the dtype of k, or None for the full dipole (r = D, U the identity).
    near : whether some cluster with keys is near; False saves asking for every key.

    Returns
    -------
    moment [B, Hq, Cq, r, Dv] fp32: row r is M_i u_r.

    The keys are divided among so many programs that a large device is filled; their parts are added in order.

    Bytes: K, V and order for every tile of columns (L2), mean_k and mean_v twice, 4 B Hq Cq r Dv written by every part.
    Operations: B Hq Nk Cq r (2 D + 2 Dv), and 2 D for the logits of every tile of directions.
    """
    check_tensors("dipole", centroids=centroids, k=k, v=v)
    B, Hk, Nk, D = k.shape
    Dv, Hq, Cq, Ck = v.shape[-1], centroids.shape[1], centroids.shape[2], offsets.shape[-1] - 1
    R = D if basis is None else basis.shape[-1]
    k, v, centroids = row_strided(k), row_strided(v), centroids.contiguous()
    basis, full = (centroids, True) if basis is None else (basis.contiguous(), False)
    far, far_mass, mean_k, mean_v = (x.contiguous() for x in (far, far_mass, mean_k, mean_v))
    BD, BDV, precision = power_of_two(D), power_of_two(Dv), precision or fp32_precision(k)
    target, head = target_of(k), max(power_of_two(D), power_of_two(Dv))
    tile = choose("dipole_near" if near else "dipole", target, head, k.element_size(), tile)
    rows, directions = Hq // Hk * Cq, max(1, tile.rows // BLOCK)
    clusters = min(tile.rows, BLOCK)
    tiles, groups = cdiv(rows, clusters), cdiv(R, directions)
    span, parts = spans(cdiv(Nk, tile.cols), B * Hk * tiles * groups)
    moment = torch.empty(parts + 1, B, Hq, Cq, R, Dv, dtype=torch.float32, device=k.device)
    centre = torch.empty(B, Hq, Cq, R, dtype=torch.float32, device=k.device)
    means = choose("dipole_means", target, head, k.element_size(), None)
    launch(
        muse_dipole_means_kernel, (B * Hq * Cq, cdiv(R, means.rows)), basis, far, far_mass, mean_k, mean_v, centre,
        moment[parts], (B * Hq * Cq, Ck), R, D, Dv, BD=BD, BDV=BDV, BR=means.rows, BJ=means.cols, FULL=full,
        PRECISION=precision, tile=means,
    )  # fmt: skip
    launch(
        muse_dipole_kernel, (B * Hk * tiles * groups, parts), k, v, centroids, basis,
        (order.contiguous(), offsets.contiguous()), far, far_mass, centre, moment, scale, k.stride()[:3],
        v.stride()[:3], (Hk, Nk, Ck, rows, tiles, groups, span * tile.cols), R, D, Dv, BD=BD, BDV=BDV, BI=clusters,
        BR=directions, BM=tile.cols, BINS=power_of_two(Ck), NEAR=near, FULL=full, PRECISION=precision, tile=tile,
    )  # fmt: skip
    return moment.sum(0)
