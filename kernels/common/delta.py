"""What the gradients of all logits of a query are measured from, of any attention."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, target_of
from .layout import row_strided
from .rows import load_rows, of_head
from .sizes import cdiv, power_of_two
from .tiles import Tile, choose


@triton.jit
def delta_of_rows(b_out, b_dout, dlse, o_rows, m_rows, DLSE: tl.constexpr):
    """dout . out - dlse of rows: b_out and b_dout [BM, BDV], the numbers o_rows [BM] of dlse; without DLSE it is 0."""
    b_delta = tl.sum(b_out.to(tl.float32) * b_dout.to(tl.float32), axis=1)
    if DLSE:
        b_delta -= tl.load(dlse + o_rows, mask=m_rows, other=0.0).to(tl.float32)
    return b_delta


@triton.jit
def output_delta_kernel(
    out, dout, dlse, delta, out_strides, dout_strides, sizes,
    DV: tl.constexpr, BDV: tl.constexpr, BM: tl.constexpr, DLSE: tl.constexpr,
):  # fmt: skip
    # one program: BM queries of one head
    HQ, NQ, TILES = sizes
    i_head = (tl.program_id(0) // TILES).to(tl.int64)
    o_m = tl.program_id(0) % TILES * BM + tl.arange(0, BM)
    m_m, o_row = o_m < NQ, o_m.to(tl.int64)
    i_b, i_h = i_head // HQ, i_head % HQ
    b_o = load_rows(of_head(out, out_strides, i_b, i_h), o_row, m_m, out_strides[2], DV, BDV)
    b_do = load_rows(of_head(dout, dout_strides, i_b, i_h), o_row, m_m, dout_strides[2], DV, BDV)
    b_delta = delta_of_rows(b_o, b_do, dlse, i_head * NQ + o_m, m_m, DLSE)
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
        output_delta_kernel, (B * Hq * tiles,), out, dout, delta if dlse is None else dlse.contiguous(), delta,
        out.stride()[:3], dout.stride()[:3], (Hq, N, tiles), Dv, BDV=power_of_two(Dv), BM=tile.rows,
        DLSE=dlse is not None, tile=tile,
    )  # fmt: skip
    return delta
