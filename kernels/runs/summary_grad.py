"""Backward of the summaries' use: what the queries of every cluster ask of the masses and means they were shown."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.expansion import displacement
from ..common.launch import fp32_precision, launch, target_of
from ..common.online import load_lse
from ..common.rows import load_row, load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .tree import Tree, queries_of


@triton.jit
def runs_summary_grad_kernel(
    q, dout, centroids, mass, mean_k, mean_v, lse, delta, d_mass, tilt, d_mean_k, d_mean_v, scale,
    q_strides, dout_strides, tree, sizes, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: one cluster of queries and BN clusters of keys
    NQ, NK, CQ, CK, BLOCK, LEVELS, NODES = tree
    HQ, TILES = sizes
    i_row = (tl.program_id(0) // TILES).to(tl.int64)
    i_head = i_row // (NODES * CQ)
    i_node, i_c = tl.program_id(0) // TILES // CQ % NODES, tl.program_id(0) // TILES % CQ
    i_first, i_end = queries_of(i_node, i_c, NQ, NK, CQ, CAUSAL)
    o_j, o_m = tl.program_id(0) % TILES * BN + tl.arange(0, BN), tl.arange(0, BM)
    m_j, o_s = o_j < CK, i_row * CK + o_j
    b_a = tl.load(mass + o_s, mask=m_j, other=float("-inf"))
    b_k = load_rows(mean_k, o_s, m_j, D, D, BD)  # [BN, BD]
    b_v = load_rows(mean_v, o_s, m_j, DV, DV, BDV)  # [BN, BDV]
    b_p = load_row(centroids + i_row * D, D, BD)
    p_q = of_head(q, q_strides, i_head // HQ, i_head % HQ)
    p_do = of_head(dout, dout_strides, i_head // HQ, i_head % HQ)
    b_da = tl.zeros([BN], dtype=tl.float32)
    b_dk = tl.zeros([BN, BD], dtype=tl.float32)
    b_dv = tl.zeros([BN, BDV], dtype=tl.float32)
    for i in range(i_first, i_end, BM):
        m_m, o_row = i + o_m < i_end, (i + o_m).to(tl.int64)
        b_q = load_rows(p_q, o_row, m_m, q_strides[2], D, BD)
        b_do = load_rows(p_do, o_row, m_m, dout_strides[2], DV, BDV)
        b_lse = load_lse(lse + i_head * NQ + i, o_m, m_m)
        b_delta = tl.load(delta + i_head * NQ + i + o_m, mask=m_m, other=0.0)
        b_d = displacement(b_q, b_p)  # [BM, BD]
        b_s = b_a[:, None] + scale * tl.dot(b_k, tl.trans(b_d), input_precision=PRECISION)  # [BN, BM]
        b_w = tl.exp(b_s - b_lse[None, :])
        b_g = b_w * (tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION) - b_delta[None, :])
        b_da += tl.sum(b_g, axis=1)
        b_dk = tl.dot(b_g.to(b_d.dtype), b_d, b_dk, input_precision=PRECISION)
        b_dv = tl.dot(b_w.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
    # Rounded as they are stored, so that what is subtracted there is what is added when they are read.
    b_dk = (b_dk * scale).to(d_mean_k.dtype.element_ty)
    b_dv = b_dv.to(d_mean_v.dtype.element_ty)
    b_tilt = tl.sum(b_dk.to(tl.float32) * b_k.to(tl.float32), axis=1)
    b_tilt += tl.sum(b_dv.to(tl.float32) * b_v.to(tl.float32), axis=1)
    tl.store(d_mass + o_s, b_da, mask=m_j)
    tl.store(tilt + o_s, b_tilt, mask=m_j)
    store_rows(d_mean_k, o_s, m_j, D, b_dk, D, BD)
    store_rows(d_mean_v, o_s, m_j, DV, b_dv, DV, BDV)


def runs_summary_grad(
    q: Tensor,
    dout: Tensor,
    centroids: Tensor,
    mass: Tensor,
    mean_k: Tensor,
    mean_v: Tensor,
    lse: Tensor,
    delta: Tensor,
    tree: Tree,
    scale: float,
    tile: Tile | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the masses and of the means, and their products with the means.

    With P = exp(a + s d.k~ - lse) and g = P (dout.v~ - delta), summed over the queries of a cluster:
    da = sum g;  dk~ = s sum g d;  dv~ = sum P dout;  tilt = dk~.k~ + dv~.v~.

    Returns
    -------
    da and tilt [B, Hq, nodes, Cq, Ck] fp32; dk~ [B, Hq, nodes, Cq, Ck, D], dv~ [B, Hq, nodes, Cq, Ck, Dv] in q's dtype.

    Bytes: half of q and dout for every level, summaries and their gradients once.
    Operations: 2 levels B Hq N Ck (D + Dv).
    """
    B, Hq, _, D = q.shape
    Dv, Cq, Ck = dout.shape[-1], tree.query_clusters, tree.key_clusters
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("runs_summary_grad", target_of(q), max(BD, BDV), q.element_size(), tile)
    tiles = cdiv(Ck, tile.rows)
    d_mass, tilt = torch.empty_like(mass), torch.empty_like(mass)
    d_mean_k, d_mean_v = torch.empty_like(mean_k), torch.empty_like(mean_v)
    launch(
        runs_summary_grad_kernel, (B * Hq * tree.nodes * Cq * tiles,),
        q, dout, centroids, mass, mean_k, mean_v, lse, delta, d_mass, tilt, d_mean_k, d_mean_v, scale,
        q.stride()[:3], dout.stride()[:3], tree.sizes, (Hq, tiles), D, Dv, BD=BD, BDV=BDV, BN=tile.rows,
        BM=tile.cols, CAUSAL=tree.causal, PRECISION=precision or fp32_precision(q), tile=tile,
    )  # fmt: skip
    return d_mass, tilt, d_mean_k, d_mean_v
