"""What the gradients of all logits of a query are measured from, of any attention."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch, power_of_two, row_strided, target_of
from .tiles import Tile, choose


@triton.jit
def _delta_kernel(
    out, dout, dlse, delta, stride_ob, stride_oh, stride_on, stride_db, stride_dh, stride_dn, HQ, NQ, TILES,
    DV: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, DLSE: tl.constexpr,
):  # fmt: skip
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    o_m, o_dv = tl.program_id(0) % TILES * BM + tl.arange(0, BM), tl.arange(0, BDV)
    m_m = o_m < NQ
    o_row, m_o = o_m.to(tl.int64)[:, None], m_m[:, None] & (o_dv < DV)[None, :]
    i_b, i_h = i_head // HQ, i_head % HQ
    b_o = tl.load(
        out + i_b * stride_ob + i_h * stride_oh + o_row * stride_on + o_dv[None, :], mask=m_o, other=0.0
    )
    b_do = tl.load(
        dout + i_b * stride_db + i_h * stride_dh + o_row * stride_dn + o_dv[None, :], mask=m_o, other=0.0
    )
    b_delta = tl.sum(b_o.to(tl.float32) * b_do.to(tl.float32), axis=1)
    if DLSE:
        b_delta -= tl.load(dlse + i_head * NQ + o_m, mask=m_m, other=0.0).to(tl.float32)
    tl.store(delta + i_head * NQ + o_m, b_delta, mask=m_m)


def output_delta(out: Tensor, dout: Tensor, dlse: Tensor | None, tile: Tile | None = None) -> Tensor:
    """delta_n = dout_n . out_n - dlse_n, [B, Hq, N] fp32: what the gradient of every logit is measured from.

    Parameters
    ----------
    out, dout : [B, Hq, N, Dv], any strides. dlse : [B, Hq, N], or None for zeros.

    Bytes: out and dout once. Operations: 2 B Hq N Dv.
    """
    out, dout = row_strided(out), row_strided(dout)
    B, Hq, N, Dv = out.shape
    tile = choose("output_delta", target_of(out), power_of_two(Dv), out.element_size(), tile)
    tiles = cdiv(N, tile.rows)
    delta = torch.empty(B, Hq, N, dtype=torch.float32, device=out.device)
    launch(
        _delta_kernel, (B * Hq * tiles,), out, dout, delta if dlse is None else dlse.contiguous(), delta,
        *out.stride()[:3], *dout.stride()[:3], Hq, N, tiles, Dv, BDV=power_of_two(Dv), BM=tile.rows,
        DLSE=dlse is not None, tile=tile,
    )  # fmt: skip
    return delta
