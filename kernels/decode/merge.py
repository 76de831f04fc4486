"""One decoding step, part 4: the partials of all chunks and sources become one result."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_device
from ..common.launch import launch, target_of
from ..common.sizes import power_of_two
from .tiles import Tile, choose
from .work import Work


@triton.jit(do_not_specialize=["CHUNKS"])
def _merge_kernel(
    parts, part_lse, out, lse, CHUNKS, G: tl.constexpr, DV: tl.constexpr, BS: tl.constexpr, BDV: tl.constexpr
):
    # one program: one query head
    i_head = tl.program_id(0).to(tl.int64)
    i_first = (i_head // G) * CHUNKS * G + i_head % G  # the head's first partial; the next lie G apart
    o_s, o_dv = tl.arange(0, BS), tl.arange(0, BDV)
    b_max = tl.full([], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([], dtype=tl.float32)
    b_out = tl.zeros([BDV], dtype=tl.float32)
    for i in range(0, CHUNKS, BS):
        o_part = i_first + (i + o_s) * G
        b_l = tl.load(part_lse + o_part, mask=i + o_s < CHUNKS, other=float("-inf"))  # [BS]
        m_v = (b_l > float("-inf"))[:, None] & (o_dv < DV)[None, :]
        b_o = tl.load(parts + o_part[:, None] * DV + o_dv[None, :], mask=m_v, other=0.0)  # [BS, BDV]
        b_new = tl.maximum(b_max, tl.max(b_l))
        b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
        b_w = tl.exp(b_l - b_shift)
        b_keep = tl.exp(b_max - b_shift)
        b_sum = b_sum * b_keep + tl.sum(b_w)
        b_out = b_out * b_keep + tl.sum(b_w[:, None] * b_o, axis=0)
        b_max = b_new
    b_safe = tl.where(b_sum > 0, b_sum, 1.0)
    tl.store(out + i_head * DV + o_dv, (b_out / b_safe).to(out.dtype.element_ty), mask=o_dv < DV)
    tl.store(lse + i_head, tl.where(b_sum > 0, b_max + tl.log(b_safe), float("-inf")))


def decode_merge(
    parts: Tensor, part_lse: Tensor, dtype: torch.dtype, work: Work | None = None, tile: Tile | None = None
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
        _merge_kernel,
        (R * G,),
        parts.contiguous(),
        part_lse.contiguous(),
        out,
        lse,
        chunks,
        G=G,
        DV=Dv,
        BS=tile.rows,
        BDV=BDV,
        tile=tile,
    )
    return out, lse
