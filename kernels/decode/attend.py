"""One decoding step, part 3: exact attention over listed keys, and replacement for the rest, in one grid."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import blocks_apart
from ..common.online import softmax_lse, softmax_mean, softmax_start
from ..common.rows import load_rows, store_rows
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .logits import Exact
from .near import attend_chunk
from .replace import replace_chunk
from .work import Work, processors


class Far(NamedTuple):
    """One level's clusters that were not opened.

    masses : [R, G, >= size]. values : [R, room, Dv], mean values. opened : [R, size] int32, or None.
    listed, n_listed : [R, size] and [R] int32: entry i < n_listed is cluster listed[i]; None for a level.
    """

    masses: Tensor
    values: Tensor
    size: int
    opened: Tensor | None = None
    listed: Tensor | None = None
    n_listed: Tensor | None = None

    def ready(self) -> Far:
        """The same numbers, laid out as the kernel reads them."""
        lists = (None if x is None else x.contiguous() for x in (self.opened, self.listed, self.n_listed))
        return Far(rows_apart(self.masses), blocks_apart(self.values), self.size, *lists)


def rows_apart(masses: Tensor) -> Tensor:
    """`masses` [R, G, E] itself if all its rows lie one distance apart, as kernels read it, else a contiguous copy."""
    step = masses.stride()
    even = step[2] == 1 and step[0] == masses.shape[1] * step[1]
    return masses if even or masses.is_contiguous() else masses.contiguous()


@triton.jit(
    do_not_specialize=[
        "sinks", "clustered", "stride_top", "stride_fine", "stride_exact", "room", "F", "T", "E",
        "FINE_FIRST", "TOP_FIRST", "EXACT_FIRST", "CHUNKS", "chunk",
    ]
)  # fmt: skip
def decode_attend_kernel(
    q, storage, near, fine, top, exact_masses, out, lse, scale, softcap, strides, value_strides,
    stride_fine, stride_top, stride_exact, sinks, clustered, room, F, T, E,
    FINE_FIRST, TOP_FIRST, EXACT_FIRST, CHUNKS, chunk, SHAPE: tl.constexpr, BLOCK: tl.constexpr,
    TOP_OPENED: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: one chunk of one row; the chunks that read most start first
    keys, values = storage
    members, taken = near
    G: tl.constexpr = SHAPE[0]
    D: tl.constexpr = SHAPE[1]
    DV: tl.constexpr = SHAPE[2]
    BG: tl.constexpr = BLOCK[0]
    BD: tl.constexpr = BLOCK[1]
    BDV: tl.constexpr = BLOCK[2]
    BN: tl.constexpr = BLOCK[3]
    i_chunk, i_row = tl.program_id(0) % CHUNKS, (tl.program_id(0) // CHUNKS).to(tl.int64)
    o_g = tl.arange(0, BG)
    b_out, b_max, b_sum = softmax_start(BG, BDV)
    p_k, p_v = keys + i_row * strides[0], values + i_row * strides[1]
    if i_chunk < FINE_FIRST:
        begin = i_chunk * chunk
        end = tl.minimum(begin + chunk, tl.load(taken + i_row))
        if begin < end:
            b_q = load_rows(q + i_row * G * D, o_g, o_g < G, D, D, BD)
            b_out, b_max, b_sum = attend_chunk(
                b_out, b_max, b_sum, b_q, p_k, p_v, members + i_row * room, begin, end,
                scale, softcap, D, DV, BD, BN, SOFTCAP, PRECISION,
            )  # fmt: skip
    elif i_chunk < TOP_FIRST:
        masses, mean_v, opened, listed, n_listed = fine
        begin = (i_chunk - FINE_FIRST) * chunk
        end = tl.minimum(begin + chunk, tl.load(n_listed + i_row))
        b_out, b_max, b_sum = replace_chunk(
            b_out, b_max, b_sum, masses + i_row * G * stride_fine, opened + i_row * F, listed + i_row * F,
            mean_v + i_row * value_strides[0], begin, end, stride_fine, 0, 0,
            G, DV, BN, True, True, False, PRECISION, q.dtype.element_ty,
        )  # fmt: skip
    elif i_chunk < EXACT_FIRST:
        masses, mean_v, opened = top
        begin = (i_chunk - TOP_FIRST) * chunk
        b_out, b_max, b_sum = replace_chunk(
            b_out, b_max, b_sum, masses + i_row * G * stride_top, opened + i_row * T, opened,
            mean_v + i_row * value_strides[1], begin, tl.minimum(begin + chunk, T), stride_top, 0, 0,
            G, DV, BN, TOP_OPENED, False, False, PRECISION, q.dtype.element_ty,
        )  # fmt: skip
    else:
        begin = (i_chunk - EXACT_FIRST) * chunk
        b_out, b_max, b_sum = replace_chunk(
            b_out, b_max, b_sum, exact_masses + i_row * G * stride_exact, members, members,
            p_v, begin, tl.minimum(begin + chunk, E), stride_exact, sinks, clustered,
            G, DV, BN, False, False, True, PRECISION, q.dtype.element_ty,
        )  # fmt: skip
    # a chunk without keys leaves lse -inf, and its out is never read
    o_out = (i_row * CHUNKS + i_chunk) * G + o_g
    tl.store(lse + o_out, softmax_lse(b_max, b_sum), mask=o_g < G)
    store_rows(out, o_out, (o_g < G) & (b_sum > 0), DV, softmax_mean(b_out, b_sum), DV, BDV)


def decode_attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    *,
    members: Tensor | None = None,
    taken: Tensor | None = None,
    top: Far | None = None,
    fine: Far | None = None,
    exact: Exact | None = None,
    exact_masses: Tensor | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    work: Work | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:
    """Partials (out, lse) of every source of one decoding step, each cut into chunks of equal length.

    near  : softmax over s q.k_n with v_n, n = members[: taken]                  (sparse flash decoding)
    fine  : softmax over a_i with the mean value of cluster listed[i], not opened (centroid replacement)
    top   : likewise over the top level
    exact : softmax over the logits found by `decode_lookup`, with v_n of the sinks and of the tail

    The grid has the chunks that the longest row could have; a chunk behind a row's end exits at once. So rows
    of unequal length keep the device evenly busy, and nothing depends on data that only the device knows.

    Parameters
    ----------
    q : [R, G, D]. keys, values : [R, capacity, D], [R, capacity, Dv], contiguous.
    members, taken : of `decode_select`. exact, exact_masses : of `decode_lookup`, a view [R, G, E].
    chunk : keys or clusters a program; None chooses it by the size of the grid and the number of processors.

    Returns
    -------
    out [R, chunks, G, Dv], lse [R, chunks, G] fp32; where lse is -inf, out is undefined.

    Bytes: R room (D + Dv) + R (F + T + E) Dv elements, 4 R G (F + T + E) of masses, 8 R chunks G Dv.
    Operations: 2 R G (room (D + Dv) + (F + T + E) Dv).
    """
    check_tensors("decode_attend", q=q, keys=keys, values=values)
    work = work or Work()
    q, keys, values = q.contiguous(), blocks_apart(keys), blocks_apart(values)
    top, fine = (far.ready() if far else None for far in (top, fine))
    members, taken = (None if x is None else x.contiguous() for x in (members, taken))
    exact_masses = None if exact_masses is None else rows_apart(exact_masses)
    R, G, D = q.shape
    Dv = values.shape[-1]
    room = 0 if members is None else members.shape[-1]
    F, T, E = (fine.size if fine else 0), (top.size if top else 0), (exact.size if exact else 0)
    BD, BDV = power_of_two(D), power_of_two(Dv)
    tile = choose("decode_attend", target_of(q), max(BD, BDV), q.element_size(), tile)
    chunk = chunk or chunk_size(R * (room + F + T + E), tile.cols, processors(q))
    chunks = [cdiv(n, chunk) for n in (room, F, T, E)]  # near, fine, top, exact
    out = work.take("chunk_out", (R, sum(chunks), G, Dv), q)
    lse = work.take("chunk_lse", (R, sum(chunks), G), q)
    some = q.new_empty(1, dtype=torch.int32) if members is None else members  # stands for what is not there
    far, near = top or fine, fine or top
    top_opened = None if top is None else top.opened
    fine_lists = (some,) * 3 if fine is None else (fine.opened, fine.listed, fine.n_listed)
    launch(
        decode_attend_kernel, (R * sum(chunks),),
        q, (keys, values), (some, some if taken is None else taken),
        (near.masses if near else lse, near.values if near else values, *fine_lists),
        (far.masses if far else lse, far.values if far else values, some if top_opened is None else top_opened),
        lse if exact_masses is None else exact_masses,
        out, lse, scale, softcap or 1.0, (keys.stride(0), values.stride(0)),
        (near.values.stride(0) if near else 0, far.values.stride(0) if far else 0),
        near.masses.stride(1) if near else 0, far.masses.stride(1) if far else 0,
        0 if exact_masses is None else exact_masses.stride(1),
        exact.sinks if exact else 0, exact.clustered if exact else 0, room, F, T, E, *accumulate(chunks), chunk,
        SHAPE=(G, D, Dv), BLOCK=(power_of_two(G), BD, BDV, tile.cols),
        TOP_OPENED=top_opened is not None,
        SOFTCAP=softcap is not None, PRECISION=fp32_precision(q), tile=tile,
    )  # fmt: skip
    return out, lse


def chunk_size(work: int, step: int, processors: int) -> int:
    """A multiple of `step` such that 3 chunks a processor, which run at once, cover the work; at most 16 steps."""
    return step * min(16, max(1, cdiv(work, 3 * processors * step)))
