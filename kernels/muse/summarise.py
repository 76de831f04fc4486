"""Summaries of every key cluster from every query centroid: log mass, tilted means of keys and values."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import row_strided
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def _summarise_kernel(
    k, v, centroids, order, offsets, mass, mean_k, mean_v, scale, stride_kb, stride_kh, stride_kn, stride_vb,
    stride_vh, stride_vn, HK, NK, CK, ROWS, D: tl.constexpr, DV: tl.constexpr, TILES, BD: tl.constexpr,
    BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC query centroids (of all heads of the group) and one key cluster
    i_tile = tl.program_id(0) % TILES
    i_j = (tl.program_id(0) // TILES) % CK
    i_head = (tl.program_id(0) // TILES // CK).to(tl.int64)
    o_c, o_d, o_dv, o_m = (
        i_tile * BC + tl.arange(0, BC),
        tl.arange(0, BD),
        tl.arange(0, BDV),
        tl.arange(0, BM),
    )
    m_c, m_d, m_dv = o_c < ROWS, o_d < D, o_dv < DV
    p_k = k + (i_head // HK) * stride_kb + (i_head % HK) * stride_kh
    p_v = v + (i_head // HK) * stride_vb + (i_head % HK) * stride_vh
    o_row = i_head * ROWS + o_c
    # [BC, BD]
    b_p = tl.load(centroids + o_row[:, None] * D + o_d[None, :], mask=m_c[:, None] & m_d[None, :], other=0.0)
    i_start = tl.load(offsets + i_head * (CK + 1) + i_j)
    i_end = tl.load(offsets + i_head * (CK + 1) + i_j + 1)
    b_max = tl.full([BC], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BC], dtype=tl.float32)
    b_mean_k = tl.zeros([BC, BD], dtype=tl.float32)
    b_mean_v = tl.zeros([BC, BDV], dtype=tl.float32)
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
        b_s = tl.dot(b_p, tl.trans(b_k), input_precision=PRECISION) * scale
        b_s = tl.where(m_m[None, :], b_s, float("-inf"))  # [BC, BM]
        b_new = tl.maximum(b_max, tl.max(b_s, axis=1))
        b_w = tl.exp(b_s - b_new[:, None])
        b_keep = tl.exp(b_max - b_new)
        b_max = b_new
        b_sum = b_sum * b_keep + tl.sum(b_w, axis=1)
        b_w = b_w.to(b_k.dtype)
        b_mean_k = tl.dot(b_w, b_k, b_mean_k * b_keep[:, None], input_precision=PRECISION)
        b_mean_v = tl.dot(b_w, b_v, b_mean_v * b_keep[:, None], input_precision=PRECISION)
    b_sum_safe = tl.where(b_sum == 0, 1.0, b_sum)  # an empty cluster: mass -inf, means 0
    o_out = o_row * CK + i_j
    tl.store(mass + o_out, tl.where(b_sum == 0, float("-inf"), b_max + tl.log(b_sum_safe)), mask=m_c)
    tl.store(
        mean_k + o_out[:, None] * D + o_d[None, :],
        (b_mean_k / b_sum_safe[:, None]).to(mean_k.dtype.element_ty),
        mask=m_c[:, None] & m_d[None, :],
    )
    tl.store(
        mean_v + o_out[:, None] * DV + o_dv[None, :],
        (b_mean_v / b_sum_safe[:, None]).to(mean_v.dtype.element_ty),
        mask=m_c[:, None] & m_dv[None, :],
    )


def summarise(
    centroids: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    offsets: Tensor,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Summarise every key cluster j around every query centroid p_i.

    a_ij = log sum_{n in j} exp(s p_i.k_n);  w_n = exp(s p_i.k_n - a_ij);  k~_ij = sum w_n k_n;
    v~_ij = sum w_n v_n.  An empty cluster has a = -inf and zero means.

    Parameters
    ----------
    centroids : [B, Hq, Cq, D] in the dtype of k: the points p_i around which everything is expanded.
    k : [B, Hk, Nk, D], v : [B, Hk, Nk, Dv]; any strides.
    order : [B, Hk, Nk], offsets : [B, Hk, Ck + 1] of the key clusters.
    precision : of fp32 products, "ieee" or "tf32x3"; None takes what is accurate and fast there.

    Returns
    -------
    mass [B, Hq, Cq, Ck] fp32, tilted means of the keys [B, Hq, Cq, Ck, D] and values [B, Hq, Cq, Ck, Dv] in
    the dtype of k.

    Bytes: K, V and order once (again from L2 for every further tile of the G Cq centroids of a group),
    summaries B Hq Cq Ck (D + Dv) elements + 4 each. Operations: B Hq Nk Cq (4 D + 2 Dv).
    """
    check_tensors("summarise", centroids=centroids, k=k, v=v)
    B, Hk, Nk, D = k.shape
    Dv, Hq, Cq, Ck = v.shape[-1], centroids.shape[1], centroids.shape[2], offsets.shape[-1] - 1
    k, v, centroids = row_strided(k), row_strided(v), centroids.contiguous()
    BD, BDV, rows = power_of_two(D), power_of_two(Dv), Hq // Hk * Cq
    tile = choose("summarise", target_of(k), max(BD, BDV), k.element_size(), tile)
    tiles = cdiv(rows, tile.rows)
    mass = torch.empty(B, Hq, Cq, Ck, dtype=torch.float32, device=k.device)
    mean_k = torch.empty(B, Hq, Cq, Ck, D, dtype=k.dtype, device=k.device)
    mean_v = torch.empty(B, Hq, Cq, Ck, Dv, dtype=k.dtype, device=k.device)
    launch(
        _summarise_kernel, (B * Hk * Ck * tiles,), k, v, centroids, order.contiguous(), offsets.contiguous(),
        mass, mean_k, mean_v, scale, *k.stride()[:3], *v.stride()[:3], Hk, Nk, Ck, rows, D, Dv, tiles, BD=BD,
        BDV=BDV, BC=tile.rows, BM=tile.cols, PRECISION=precision or fp32_precision(k), tile=tile,
    )  # fmt: skip
    return mass, mean_k, mean_v
