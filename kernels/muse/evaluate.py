"""Attention of every query: far clusters through summaries, near ones exactly, in one online softmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, plain_when_wide, target_of
from ..common.layout import row_strided
from ..common.online import softmax_step
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def _evaluate_kernel(
    q, k, v, centroids, q_order, q_offsets, k_order, k_offsets, near, far, mean_k, mean_v, basis, moment, out,
    lse, share, scale, stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh,
    stride_vn, stride_ob, stride_oh, stride_on, stride_lb, stride_lh,
    HQ, G, NQ, NK, CQ, CK, NEAR, D: tl.constexpr, DV: tl.constexpr, R: tl.constexpr, PARTS,
    BD: tl.constexpr, BDV: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, DIPOLE: tl.constexpr, FULL: tl.constexpr, MERGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: every PARTS-th tile of BM queries of one query cluster
    i_row = (tl.program_id(0) // PARTS).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    i_first = tl.load(q_offsets + i_head * (CQ + 1) + i_c) + tl.program_id(0) % PARTS * BM
    i_end = tl.load(q_offsets + i_head * (CQ + 1) + i_c + 1)
    for i_start in range(i_first, i_end, PARTS * BM):
        i_b, i_h = i_head // HQ, i_head % HQ
        i_kv = i_head // G  # heads of one group follow each other
        p_k = k + i_b * stride_kb + (i_h // G) * stride_kh
        p_v = v + i_b * stride_vb + (i_h // G) * stride_vh
        o_m, o_n, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BDV)
        m_m, m_d, m_dv = i_start + o_m < i_end, o_d < D, o_dv < DV
        b_n = tl.load(q_order + i_head * NQ + i_start + o_m, mask=m_m, other=0)
        p_q = q + i_b * stride_qb + i_h * stride_qh + b_n[:, None] * stride_qn + o_d[None, :]
        b_q = tl.load(p_q, mask=m_m[:, None] & m_d[None, :], other=0.0)  # [BM, BD]
        b_p = tl.load(centroids + i_row * D + o_d, mask=m_d, other=0.0)
        b_d = (b_q.to(tl.float32) - b_p.to(tl.float32)[None, :]).to(b_q.dtype)  # [BM, BD]
        b_max = tl.full([BM], float("-inf"), dtype=tl.float32)
        b_sum = tl.zeros([BM], dtype=tl.float32)
        b_out = tl.zeros([BM, BDV], dtype=tl.float32)
        for i in range(0, CK, BN):  # far: one term a cluster
            m_n = i + o_n < CK
            o_j = i_row * CK + i + o_n
            b_a = tl.load(far + o_j, mask=m_n, other=float("-inf"))
            # [BN, BD], [BN, BDV]
            b_k = tl.load(
                mean_k + o_j[:, None] * D + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
            )
            b_v = tl.load(
                mean_v + o_j[:, None] * DV + o_dv[None, :], mask=m_n[:, None] & m_dv[None, :], other=0.0
            )
            b_s = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_k), input_precision=PRECISION)  # [BM, BN]
            b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        b_far_max, b_far_sum = b_max, b_sum
        for i_near in range(0, NEAR):  # near: one term a key
            i_j = tl.load(near + i_row * NEAR + i_near)
            if i_j >= 0:
                i_first = tl.load(k_offsets + i_kv * (CK + 1) + i_j)
                i_last = tl.load(k_offsets + i_kv * (CK + 1) + i_j + 1)
                for i_k in range(i_first, i_last, BN):
                    m_n = i_k + o_n < i_last
                    b_j = tl.load(k_order + i_kv * NK + i_k + o_n, mask=m_n, other=0)
                    b_k = tl.load(
                        p_k + b_j[:, None] * stride_kn + o_d[None, :],
                        mask=m_n[:, None] & m_d[None, :],
                        other=0.0,
                    )
                    b_v = tl.load(
                        p_v + b_j[:, None] * stride_vn + o_dv[None, :],
                        mask=m_n[:, None] & m_dv[None, :],
                        other=0.0,
                    )
                    b_s = scale * tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
                    b_s = tl.where(m_n[None, :], b_s, float("-inf"))
                    b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_s, b_v, PRECISION)
        if DIPOLE:
            o_r = tl.arange(0, BR)
            m_r = o_r < R
            b_share = tl.where(b_far_sum == 0, 0.0, tl.exp(b_far_max - b_max) * b_far_sum)
            tl.store(share + i_head * NQ + b_n, b_share / tl.where(b_sum == 0, 1.0, b_sum), mask=m_m)
            if FULL:
                b_t = b_d.to(tl.float32)  # [BM, BR]
            else:  # 16 dimensions at a time: without tensor cores a longer product holds too many registers
                b_t = tl.zeros([BM, BR], dtype=tl.float32)
                for i_d in range(0, D, 16):
                    o_k = i_d + tl.arange(0, 16)
                    m_k = o_k < D
                    p_x = q + i_b * stride_qb + i_h * stride_qh + b_n[:, None] * stride_qn + o_k[None, :]
                    b_x = tl.load(p_x, mask=m_m[:, None] & m_k[None, :], other=0.0).to(tl.float32)
                    b_x -= tl.load(centroids + i_row * D + o_k, mask=m_k, other=0.0).to(tl.float32)[None, :]
                    p_u = basis + i_row * D * R + o_k[:, None] * R + o_r[None, :]
                    b_u = tl.load(p_u, mask=m_k[:, None] & m_r[None, :], other=0.0)  # [16, BR]
                    b_t = tl.dot(b_x.to(b_u.dtype), b_u, b_t, input_precision=PRECISION)
            b_t = (b_t * (scale * b_share)[:, None]).to(b_d.dtype)
            p_moment = moment + (i_row * R + o_r)[:, None] * DV + o_dv[None, :]
            b_moment = tl.load(p_moment, mask=m_r[:, None] & m_dv[None, :], other=0.0)  # [BR, BDV]
            b_out = tl.dot(b_t, b_moment.to(b_t.dtype), b_out, input_precision=PRECISION)
        p_out = out + i_b * stride_ob + i_h * stride_oh + b_n[:, None] * stride_on + o_dv[None, :]
        p_lse = lse + i_b * stride_lb + i_h * stride_lh + b_n
        if MERGE:  # with the partial that is there
            b_there = tl.load(p_lse, mask=m_m, other=float("-inf"))
            b_old = tl.load(p_out, mask=m_m[:, None] & m_dv[None, :], other=0.0).to(tl.float32)
            b_new = tl.maximum(b_max, b_there)
            b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
            b_keep, b_share = tl.exp(b_max - b_shift), tl.exp(b_there - b_shift)
            b_out = b_out * b_keep[:, None] + b_old * b_share[:, None]
            b_sum = b_sum * b_keep + b_share
            b_max = b_new
        b_safe = tl.where(b_sum == 0, 1.0, b_sum)
        b_lse = tl.where(b_sum == 0, float("-inf"), b_max + tl.log(b_safe))
        tl.store(p_out, (b_out / b_safe[:, None]).to(b_q.dtype), mask=m_m[:, None] & m_dv[None, :])
        tl.store(p_lse, b_lse, mask=m_m)


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
    if into is not None:
        out, lse = into
        if out.stride(-1) != 1 or lse.stride(-1) != 1:
            raise ValueError(
                f"evaluate: into has strides {out.stride()} and {lse.stride()}; the last must be 1"
            )
    else:
        out = torch.empty(B, Hq, Nq, Dv, dtype=q.dtype, device=q.device)
        lse = torch.empty(B, Hq, Nq, dtype=torch.float32, device=q.device)
        if padded:  # they are in no tile, so they need a value here
            out.zero_()
            lse.fill_(float("-inf"))
    if padded and share is not None:
        share.zero_()
    launch(
        _evaluate_kernel, (B * Hq * Cq * parts,), q, k, v, centroids.contiguous(), q_order.contiguous(),
        q_offsets.contiguous(), k_order.contiguous(), k_offsets.contiguous(), near.contiguous(), far.contiguous(),
        mean_k.contiguous(), mean_v.contiguous(), q if basis is None else basis.contiguous(),
        lse if moment is None else moment.contiguous(), out, lse,
        lse if share is None else share, scale, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        *out.stride()[:3], *lse.stride()[:2], Hq,
        Hq // Hk, Nq, Nk, Cq, Ck, near.shape[-1], D, Dv, R, parts, BD=BD, BDV=BDV, BR=power_of_two(R),
        BM=tile.rows, BN=tile.cols, DIPOLE=moment is not None, FULL=basis is None,
        MERGE=into is not None, PRECISION=precision, tile=tile,
    )  # fmt: skip
    return out, lse, share
