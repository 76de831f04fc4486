"""Where k-means starts: vectors of given places, the same places in every head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_given, check_tensors
from ..common.launch import launch, target_of
from ..common.layout import row_strided
from ..common.rows import load_rows, of_head, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .assign import finite


@triton.jit
def seeds_kernel(x, places, seeds, x_strides, sizes, D: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr):
    # one program: BC seeds of one head
    H, C, BLOCKS = sizes
    i_row, i_block = (tl.program_id(0) // BLOCKS).to(tl.int64), tl.program_id(0) % BLOCKS
    o_c = i_block * BC + tl.arange(0, BC)
    b_n = tl.load(places + o_c, mask=o_c < C, other=0)
    b_x = finite(load_rows(of_head(x, x_strides, i_row // H, i_row % H), b_n, o_c < C, x_strides[2], D, BD))
    store_rows(seeds, i_row * C + o_c, o_c < C, D, b_x, D, BD)


def seeds_at(x: Tensor, places: Tensor, tile: Tile | None = None) -> Tensor:
    """The vectors at `places` [C] int64 of every head of x [B, H, N, D], as [B, H, C, D] fp32.

    Numbers that are not finite become zero. One launch. Bytes: B H C D read and written.
    """
    check_tensors("seeds_at", x=x)
    B, H, _, D = x.shape
    (C,) = places.shape
    check_given("seeds_at", torch.int64, x, places=(places, (C,)))
    x, BD = row_strided(x), power_of_two(D)
    tile = choose("halves", target_of(x), BD, 4, tile)
    seeds = torch.empty(B, H, C, D, dtype=torch.float32, device=x.device)
    blocks = cdiv(C, tile.rows)
    launch(
        seeds_kernel, (B * H * blocks,), x, places.contiguous(), seeds, x.stride()[:3], (H, C, blocks), D,
        BD=BD, BC=tile.rows, tile=tile,
    )  # fmt: skip
    return seeds
