"""One decoding step, part 4: the partials of all chunks and sources become one result."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_device
from ..common.launch import launch, target_of
from ..common.online import softmax_lse, softmax_mean, softmax_weights
from ..common.rows import load_rows
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose


@triton.jit(do_not_specialize=["CHUNKS"])
def decode_merge_kernel(
    parts, part_lse, out, lse, CHUNKS, G: tl.constexpr, DV: tl.constexpr, BS: tl.constexpr, BDV: tl.constexpr
):
    # one program: one query head, whose partials are to the softmax what keys are: logits and values
    i_head = tl.program_id(0).to(tl.int64)
    i_first = (i_head // G) * CHUNKS * G + i_head % G  # the head's first partial; the next lie G apart
    o_s, o_dv = tl.arange(0, BS), tl.arange(0, BDV)
    b_max = tl.full([], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([], dtype=tl.float32)
    b_out = tl.zeros([BDV], dtype=tl.float32)
    for i in range(0, CHUNKS, BS):
        o_part = i_first + (i + o_s) * G
        b_l = tl.load(part_lse + o_part, mask=i + o_s < CHUNKS, other=float("-inf"))  # [BS]
        b_o = load_rows(parts, o_part, b_l > float("-inf"), DV, DV, BDV)
        b_w, b_keep, b_max, b_sum = softmax_weights(b_l, b_max, b_sum)
        b_out = b_out * b_keep + tl.sum(b_w[:, None] * b_o, axis=0)
    tl.store(out + i_head * DV + o_dv, softmax_mean(b_out, b_sum).to(out.dtype.element_ty), mask=o_dv < DV)
    tl.store(lse + i_head, softmax_lse(b_max, b_sum))


def decode_merge(
    parts: Tensor, part_lse: Tensor, dtype: torch.dtype, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """lse = log sum_i exp(lse_i), out = sum_i exp(lse_i - lse) out_i over the chunks of every query head.

    Parameters
    ----------
    parts : [R, chunks, G, Dv], part_lse : [R, chunks, G], fp32, of `decode_attend`. dtype : of out.

    Returns
    -------
    out [R, G, Dv] in `dtype`, lse [R, G] fp32; 0 and -inf where no chunk saw a key. Both are new tensors.

    Bytes: 4 R chunks G (Dv + 1). Operations: 2 R chunks G Dv. The order of the sum is fixed.
    """
    check_device("decode_merge", parts)
    R, chunks, G, Dv = parts.shape
    out = torch.empty(R, G, Dv, dtype=dtype, device=parts.device)
    lse = torch.empty(R, G, dtype=torch.float32, device=parts.device)
    BDV = power_of_two(Dv)
    tile = choose("decode_merge", target_of(parts), BDV, 4, tile)
    launch(
        decode_merge_kernel, (R * G,), parts.contiguous(), part_lse.contiguous(), out, lse, chunks,
        G=G, DV=Dv, BS=tile.rows, BDV=BDV, tile=tile,
    )  # fmt: skip
    return out, lse
