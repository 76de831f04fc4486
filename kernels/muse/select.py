"""The near field: which key clusters are summed exactly for a query cluster, and what is left far away."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_device, check_given
from ..common.launch import launch, target_of
from ..common.rows import store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose


@triton.jit
def muse_select_near_kernel(mass, near, far, far_mass, ROWS, CK, NEAR, BR: tl.constexpr, BC: tl.constexpr):
    # one program: BR rows of masses
    o_r, o_c = (tl.program_id(0) * BR + tl.arange(0, BR)).to(tl.int64), tl.arange(0, BC)
    m_r = o_r < ROWS
    m_a = m_r[:, None] & (o_c[None, :] < CK)
    b_a = tl.load(mass + o_r[:, None] * CK + o_c[None, :], mask=m_a, other=float("-inf"))  # [BR, BC]
    for i in range(0, NEAR):
        b_max, b_arg = tl.max(b_a, axis=1, return_indices=True)
        # nothing left but empty clusters: -1
        tl.store(near + o_r * NEAR + i, tl.where(b_max > float("-inf"), b_arg, -1), mask=m_r)
        b_a = tl.where(o_c[None, :] == b_arg[:, None], float("-inf"), b_a)
    store_rows(far, o_r, m_r, CK, b_a, CK, BC)
    b_max = tl.max(b_a, axis=1)
    b_shift = tl.where(b_max > float("-inf"), b_max, 0.0)
    b_sum = tl.sum(tl.exp(b_a - b_shift[:, None]), axis=1)
    tl.store(far_mass + o_r, b_shift + tl.log(b_sum), mask=m_r)


def select_near(mass: Tensor, near: int, tile: Tile | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Choose for every query cluster the `near` key clusters of largest log mass, ties to the lower index.

    Parameters
    ----------
    mass : [B, Hq, Cq, Ck] fp32 log masses a_ij. near : how many clusters; at most Ck are chosen.

    Returns
    -------
    near [B, Hq, Cq, min(near, Ck)] int32, -1 where only empty clusters were left;
    far [B, Hq, Cq, Ck], a_ij with -inf for the near clusters;
    far_mass [B, Hq, Cq], L_i = log sum_{j far} exp a_ij.

    Bytes: 8 B Hq Cq Ck. Operations: 2 (near + 2) B Hq Cq Ck.
    """
    check_device("select_near", mass)
    B, Hq, Cq, Ck = mass.shape
    near = min(near, Ck)
    check_given("select_near", torch.float32, mass, mass=(mass, (B, Hq, Cq, Ck)))
    mass = mass.contiguous()
    tile = choose("select_near", target_of(mass), 16, 4, tile)
    chosen = torch.empty(B, Hq, Cq, near, dtype=torch.int32, device=mass.device)
    far, far_mass = torch.empty_like(mass), mass.new_empty(B, Hq, Cq)
    rows = B * Hq * Cq
    launch(
        muse_select_near_kernel, (cdiv(rows, tile.rows),), mass, chosen, far, far_mass, rows, Ck, near,
        BR=tile.rows, BC=power_of_two(Ck), tile=tile,
    )  # fmt: skip
    return chosen, far, far_mass


def near_and_far(mass: Tensor, near: int) -> tuple[Tensor, Tensor]:
    """The near clusters and the masses of the far ones; without a near field all are far, and nothing is launched."""
    return (
        select_near(mass, near)[:2]
        if near
        else (mass.new_empty(*mass.shape[:-1], 0, dtype=torch.int32), mass)
    )
