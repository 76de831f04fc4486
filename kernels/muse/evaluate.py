"""Attention of every query: far clusters through summaries, near ones exactly, in one online softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.expansion import displacement
from ..common.launch import fp32_precision, launch, plain_when_wide, target_of
from ..common.layout import row_strided
from ..common.members import cluster_span, member_rows
from ..common.online import softmax_merge, softmax_result, softmax_start, softmax_step
from ..common.rows import load_row, load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def muse_evaluate_kernel(
    q, k, v, centroids, q_members, k_members, summaries, basis, moment, out, lse, share, scale,
    q_strides, k_strides, v_strides, out_strides, lse_strides, sizes, D: tl.constexpr, DV: tl.constexpr,
    R: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DIPOLE: tl.constexpr, FULL: tl.constexpr, MERGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: every PARTS-th tile of BM queries of one query cluster
    HQ, G, NQ, NK, CQ, CK, NEAR, PARTS = sizes
    q_order, q_offsets = q_members
    k_order, k_offsets = k_members
    near, far, mean_k, mean_v = summaries
    i_row = (tl.program_id(0) // PARTS).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    i_begin, i_end = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
    for i_start in range(i_begin + tl.program_id(0) % PARTS * BM, i_end, PARTS * BM):
        i_b, i_h = i_head // HQ, i_head % HQ
        i_kv = i_head // G  # heads of one group follow each other
        p_q, p_k = of_head(q, q_strides, i_b, i_h), of_head(k, k_strides, i_b, i_h // G)
        p_v = of_head(v, v_strides, i_b, i_h // G)
        o_n = tl.arange(0, BN)
        b_n, m_m = member_rows(q_order + i_head * NQ, i_start, i_end, BM)
        b_q = load_rows(p_q, b_n, m_m, q_strides[2], D, BD)  # [BM, BD]
        p_out = of_head(out, out_strides, i_b, i_h)
        p_lse = of_head(lse, lse_strides, i_b, i_h) + b_n
        if MERGE:  # with the partial that is there, asked for long before it is needed
            b_there = load_rows(p_out, b_n, m_m, out_strides[2], DV, BDV)
            b_lse = tl.load(p_lse, mask=m_m, other=float("-inf"))
        b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))  # [BM, BD]
        b_out, b_max, b_sum = softmax_start(BM, BDV)
        for i in range(0, CK, BN):  # far: one term a cluster
            m_n, o_j = i + o_n < CK, i_row * CK + i + o_n
            b_a = tl.load(far + o_j, mask=m_n, other=float("-inf"))
            b_k = load_rows(mean_k, o_j, m_n, D, D, BD)  # [BN, BD]
            b_v = load_rows(mean_v, o_j, m_n, DV, DV, BDV)  # [BN, BDV]
            b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)  # [BM, BN]
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        b_far_max, b_far_sum = b_max, b_sum
        for i_near in range(0, NEAR):  # near: one term a key
            i_j = tl.load(near + i_row * NEAR + i_near)
            if i_j >= 0:
                i_first, i_last = cluster_span(k_offsets + i_kv * (CK + 1), i_j)
                for i_k in range(i_first, i_last, BN):
                    b_j, m_n = member_rows(k_order + i_kv * NK, i_k, i_last, BN)
                    b_k = load_rows(p_k, b_j, m_n, k_strides[2], D, BD)
                    b_v = load_rows(p_v, b_j, m_n, v_strides[2], DV, BDV)
                    b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                    b_s = tl.where(m_n[None, :], b_s, float("-inf"))
                    b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        if DIPOLE:
            b_share = tl.where(b_far_sum == 0, 0.0, tl.exp(b_far_max - b_max) * b_far_sum)
            tl.store(share + i_head * NQ + b_n, b_share / tl.where(b_sum == 0, 1.0, b_sum), mask=m_m)
            o_r = tl.arange(0, BR)
            if FULL:
                b_t = b_d.to(tl.float32)  # [BM, BR]
            else:  # 16 dimensions at a time: without tensor cores a longer product holds too many registers
                b_t = tl.zeros([BM, BR], dtype=tl.float32)
                for i_d in range(0, D, 16):
                    o_d = i_d + tl.arange(0, 16)
                    b_x = load_rows(p_q, b_n, m_m, q_strides[2], D, 16, i_d)
                    b_x = displacement(b_x, load_row(centroids + i_row * D, D, 16, i_d))
                    b_u = load_rows(basis + i_row * D * R, o_d, o_d < D, R, R, BR)  # [16, BR]
                    b_t = tl.dot(b_x.to(b_u.dtype), b_u, b_t, input_precision=PRECISION)
            b_t = (b_t * (scale * b_share)[:, None]).to(b_d.dtype)
            b_moment = load_rows(moment, i_row * R + o_r, o_r < R, DV, DV, BDV)  # [BR, BDV]
            b_out = tl.dot(b_t, b_moment.to(b_t.dtype), b_out, input_precision=PRECISION)
        if MERGE:
            b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_there, b_lse)
        b_out, b_lse = softmax_result(b_out, b_max, b_sum)
        store_rows(p_out, b_n, m_m, out_strides[2], b_out, DV, BDV)
        tl.store(p_lse, b_lse, mask=m_m)


def place_of_result(
    q: Tensor, Dv: int, padded: bool, into: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The partial that a result is merged into, or a new out [B, Hq, Nq, Dv] and lse [B, Hq, Nq].

    Queries that are in no tile, the padded ones, have their value already.
    """
    if into is None:
        out = torch.empty(*q.shape[:3], Dv, dtype=q.dtype, device=q.device)
        lse = torch.empty(*q.shape[:3], dtype=torch.float32, device=q.device)
        return (out.zero_(), lse.fill_(float("-inf"))) if padded else (out, lse)
    out, lse = into
    if out.stride(-1) != 1 or lse.stride(-1) != 1:
        raise ValueError(f"evaluate: into has strides {out.stride()} and {lse.stride()}; the last must be 1")
    return out, lse


def evaluate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centroids: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    k_offsets: Tensor,
    near: Tensor,
    far: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    scale: float,
    basis: Tensor | None = None,
    moment: Tensor | None = None,
    tile: Tile | None = None,
    precision: str | None = None,
    padded: bool = True,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Attend with every query q = p_i + d of query cluster i.

    logits: a_ij + s d.k~_ij with value v~_ij for the far clusters, s q.k_n with value v_n for the keys of the
    near ones; out is their softmax average, lse the log of the normaliser. A dipole adds
    share * s * M_i U_i U_i^T d, where share is the far part of the softmax.

    Parameters
    ----------
    q : [B, Hq, Nq, D], k : [B, Hk, Nk, D], v : [B, Hk, Nk, Dv]; any strides.
    centroids : [B, Hq, Cq, D] in the dtype of q. q_order, q_offsets, k_order, k_offsets : both clusterings.
    near, far : from `select_near`. mean_k, mean_v : from `summarise`.
    basis, moment : U [B, Hq, Cq, D, r] (None: the identity) and the result of `dipole`; no moment, no dipole.
    padded : whether some queries may be in no cluster; False saves a pass over the results.
    into : a partial (out, lse) of these queries over other keys that the result is merged into; the last dimensions
        contiguous.

    Returns
    -------
    out [B, Hq, Nq, Dv] in the dtype of q, lse [B, Hq, Nq] fp32, share [B, Hq, Nq] fp32 (None without dipole).
    A padded query has out 0, lse -inf and share 0.

    Bytes: q, out and q_order once, the summaries once for every tile of queries (L2), the near keys and
    values of every tile. Operations: 2 B Hq Nq (D + Dv) (Ck + near Nk / Ck) + 2 B Hq Nq r (D + Dv).
    """
    check_tensors("evaluate", q=q, k=k, v=v)
    B, Hq, Nq, D = q.shape
    Hk, Nk, Dv, Cq, Ck = k.shape[1], k.shape[2], v.shape[-1], centroids.shape[2], far.shape[-1]
    q, k, v = row_strided(q), row_strided(k), row_strided(v)
    R = D if basis is None else basis.shape[-1]
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose(
        "evaluate" if moment is None else "evaluate_dipole",
        target_of(q),
        max(BD, BDV),
        q.element_size(),
        tile,
    )
    precision = precision or fp32_precision(k)
    if moment is not None:
        precision = plain_when_wide(precision, max(BD, BDV))
    parts = cdiv(Nq, Cq * tile.rows)
    share = None if moment is None else torch.empty(B, Hq, Nq, dtype=torch.float32, device=q.device)
    out, lse = place_of_result(q, Dv, padded, into)
    if padded and share is not None:
        share.zero_()
    q_members = q_order.contiguous(), q_offsets.contiguous()
    k_members = k_order.contiguous(), k_offsets.contiguous()
    launch(
        muse_evaluate_kernel, (B * Hq * Cq * parts,),
        q, k, v, centroids.contiguous(), q_members, k_members,
        tuple(x.contiguous() for x in (near, far, mean_k, mean_v)), q if basis is None else basis.contiguous(),
        lse if moment is None else moment.contiguous(), out, lse, lse if share is None else share, scale,
        q.stride()[:3], k.stride()[:3], v.stride()[:3], out.stride()[:3], lse.stride()[:2],
        (Hq, Hq // Hk, Nq, Nk, Cq, Ck, near.shape[-1], parts), D, Dv, R,
        BD=BD, BDV=BDV, BR=power_of_two(R), BM=tile.rows, BN=tile.cols, DIPOLE=moment is not None,
        FULL=basis is None, MERGE=into is not None, PRECISION=precision, tile=tile,
    )  # fmt: skip
    return out, lse, share
