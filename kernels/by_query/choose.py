"""Every query chooses its near clusters: those of largest mass at itself. The others count by their summaries, here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.expansion import displacement
from ..common.launch import launch, target_of
from ..common.members import cluster_span, member_rows
from ..common.online import softmax_merge, softmax_result, softmax_start, softmax_step
from ..common.rows import load_row, load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose

MOST = 256  # clusters of keys


@triton.jit
def choose_kernel(
    q, centroids, q_members, summaries, choices, out, lse, scale, q_strides, out_strides, lse_strides, sizes,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, BC: tl.constexpr, BM: tl.constexpr,
    MERGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: every PARTS-th tile of BM queries of one query cluster
    HQ, NQ, CQ, CK, NEAR, SHARE, ROWS, PARTS = sizes
    q_order, q_offsets = q_members
    mass, mean_k, mean_v = summaries
    i_row = (tl.program_id(0) // PARTS).to(tl.int64)
    i_head, i_c = i_row // CQ, i_row % CQ
    i_b, i_h = i_head // HQ, i_head % HQ
    o_c = tl.arange(0, BC)
    m_c, o_j = o_c < CK, i_row * CK + o_c
    i_begin, i_end = cluster_span(q_offsets + i_head * (CQ + 1), i_c)
    for i_start in range(i_begin + tl.program_id(0) % PARTS * BM, i_end, PARTS * BM):
        b_n, m_m = member_rows(q_order + i_head * NQ, i_start, i_end, BM)
        b_q = load_rows(of_head(q, q_strides, i_b, i_h), b_n, m_m, q_strides[2], D, BD)  # [BM, BD]
        b_d = displacement(b_q, load_row(centroids + i_row * D, D, BD))
        b_a = tl.load(mass + o_j, mask=m_c, other=float("-inf"))
        b_mean = load_rows(mean_k, o_j, m_c, D, D, BD)  # [BC, BD]
        b_far = b_a[None, :] + scale * tl.dot(b_d, tl.trans(b_mean), input_precision=PRECISION)  # [BM, BC]
        for i in range(0, NEAR):  # the largest that is left
            b_top, b_j = tl.max(b_far, axis=1, return_indices=True)
            b_far = tl.where(o_c[None, :] == b_j[:, None], float("-inf"), b_far)
            o_choice = (i // SHARE * ROWS + i_head * NQ + b_n) * SHARE + i % SHARE
            tl.store(choices + o_choice, tl.where(b_top > float("-inf"), b_j, -1).to(tl.int64), mask=m_m)
        b_out, b_max, b_sum = softmax_start(BM, BDV)
        b_value = load_rows(mean_v, o_j, m_c, DV, DV, BDV)
        b_out, b_max, b_sum = softmax_step(b_out, b_max, b_sum, b_far, b_value, PRECISION)
        p_out = of_head(out, out_strides, i_b, i_h)
        p_lse = of_head(lse, lse_strides, i_b, i_h) + b_n
        if MERGE:  # with the partial that is there
            b_there = load_rows(p_out, b_n, m_m, out_strides[2], DV, BDV)
            b_lse = tl.load(p_lse, mask=m_m, other=float("-inf"))
            b_out, b_max, b_sum = softmax_merge(b_out, b_max, b_sum, b_there, b_lse)
        b_out, b_lse = softmax_result(b_out, b_max, b_sum)
        store_rows(p_out, b_n, m_m, out_strides[2], b_out, DV, BDV)
        tl.store(p_lse, b_lse, mask=m_m)


def fits(q: Tensor, v: Tensor, clusters: int) -> bool:
    """Whether a program has place for the means of that many clusters: a fifth of its shared memory.

    So many were compiled without a spill; more were not tried. In half precision, with heads of 64, those are 256
    clusters on an A100 and an H100, 128 on a device of 99 KB, and 64 on a T4, which has place for no larger heads.
    """
    target, most = target_of(q), power_of_two(clusters, 32)
    widest = power_of_two(max(q.shape[-1], v.shape[-1]))
    if most > MOST or (widest > 64 and target.capability < 80):
        return False
    return 5 * most * widest * q.element_size() <= 1024 * target.shared_kb


def choose_near(
    q: Tensor,
    centroids: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    summaries: tuple[Tensor, Tensor, Tensor],
    scale: float,
    near: int,
    share: int,
    place: tuple[Tensor, Tensor],
    merge: bool,
    padded: bool,
    precision: str,
    tile: Tile | None = None,
) -> Tensor:
    """The `near` clusters of largest a_ij + s d.k~_ij of every query q = p_i + d; all others are summed into `place`.

    Parameters
    ----------
    q : [B, Hq, Nq, D], rows contiguous; centroids, q_order, q_offsets : contiguous, as in `muse.evaluate`.
    summaries : mass, mean_k and mean_v of `muse.summarise`, contiguous, of as many clusters of keys as `fits` allows.
    near : choices of every query, at most Ck. share : how many of them stand beside each other.
    place : out and lse of the queries; with `merge` the partial that is there is added to.
    padded : whether some queries may be in no cluster; False saves a pass over the choices.

    Returns
    -------
    choices [P, B, Hq, Nq, share] int64, P share >= near; -1 where a query has no cluster left, and for padded queries.

    Bytes: q, out and q_order once, the summaries once for every tile of queries (L2), 8 a choice.
    Operations: 2 B Hq Nq (D + Dv) Ck, and near Ck comparisons a query.
    """
    B, Hq, Nq, D = q.shape
    mass, _, mean_v = summaries
    Cq, Ck, Dv = centroids.shape[2], mass.shape[-1], mean_v.shape[-1]
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("by_query_choose", target_of(q), max(BD, BDV), q.element_size(), tile)
    out, lse = place
    choices = torch.empty(cdiv(near, share), B, Hq, Nq, share, dtype=torch.int64, device=q.device)
    if padded or near % share:  # places that no query writes to
        choices.fill_(-1)
    parts = cdiv(Nq, Cq * tile.rows)
    launch(
        choose_kernel, (B * Hq * Cq * parts,),
        q, centroids, (q_order, q_offsets), summaries, choices, out, lse, scale,
        q.stride()[:3], out.stride()[:3], lse.stride()[:2], (Hq, Nq, Cq, Ck, near, share, B * Hq * Nq, parts), D, Dv,
        BD=BD, BDV=BDV, BC=power_of_two(Ck, 32), BM=tile.rows, MERGE=merge, PRECISION=precision, tile=tile,
    )  # fmt: skip
    return choices
