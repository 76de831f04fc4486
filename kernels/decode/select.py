"""One decoding step, part 2: the clusters of largest share per member that fit, and a list of their members."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_device
from ..common.launch import launch, target_of
from ..common.layout import blocks_apart
from ..common.sizes import power_of_two
from ..common.tiles import Tile, choose
from .cut import find_cut, load_ranked, pool_shares, rank
from .work import Work


class Selection(NamedTuple):
    """What `decode_select` chose.

    members : [R, room] int32, of which the first taken [R] are filled. opened : [R, C] int32, 1 for a chosen
    cluster. norm : [R, G], limit : [R] fp32, for the level below.
    """

    members: Tensor
    taken: Tensor
    opened: Tensor
    norm: Tensor
    limit: Tensor


@triton.jit
def _larger(x, y):
    return tl.maximum(x, y)


@triton.jit
def load_first(p_first, p_listed, o_c, n_items, LISTED: tl.constexpr):
    """The first members of the entries o_c."""
    if LISTED:
        o_c = tl.load(p_listed + o_c, mask=o_c < n_items, other=0)
        return tl.load(p_first + o_c)
    return tl.load(p_first + o_c, mask=o_c < n_items, other=0)


@triton.jit(do_not_specialize=["room", "C", "E"])
def decode_select_kernel(
    level, lists, masses, shares, norm, limits, rooms, selection, level_strides, room, top_p, C, E,
    G: tl.constexpr, BG: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr,
    CUTS: tl.constexpr, HELD: tl.constexpr, POOLED: tl.constexpr, LISTED: tl.constexpr, TOP_P: tl.constexpr,
    STOP: tl.constexpr, ROOMS: tl.constexpr,
):  # fmt: skip
    # one program: one row. HELD: all clusters stay in registers
    sizes, first = level
    listed, n_listed = lists
    members, taken, opened = selection
    i_row = tl.program_id(0).to(tl.int64)
    p_share, p_size, p_opened = shares + i_row * C, sizes + i_row * level_strides[0], opened + i_row * C
    p_first, p_listed, p_members = (
        first + i_row * level_strides[1],
        listed + i_row * C,
        members + i_row * room,
    )
    o_c, o_t = tl.arange(0, BC), tl.arange(0, BT)
    for i in range(0, room, BT):
        tl.store(p_members + i + o_t, tl.zeros([BT], dtype=tl.int32), mask=i + o_t < room)
    n_room, n_items, limit = room, C, top_p
    if ROOMS:
        n_room = tl.minimum(tl.load(rooms + i_row), room)
    if LISTED:
        n_items = tl.load(n_listed + i_row)
        if STOP:
            limit = tl.load(limits + i_row)
    b_share, b_key, b_size = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.int32), tl.zeros([BC], tl.int32)
    if HELD:  # sizes come as the search wants them: [CUTS, BC], a column in one thread
        p_sizes = p_size + tl.broadcast_to(o_c[None, :], [CUTS, BC])
        b_size = tl.max(tl.load(p_sizes, mask=(o_c < C)[None, :], other=0), axis=0)
        if LISTED:
            b_share = tl.load(p_share + o_c, mask=o_c < C, other=0.0)
        b_first = load_first(p_first, p_listed, o_c, n_items, LISTED)  # long before it is needed
    if not LISTED:
        p_mass = masses + i_row * G * (C + E)
        b_pool, n_exact = pool_shares(p_mass, p_share, norm + i_row * G, C, E, G, BG, BC, BP, POOLED, TOP_P)
        limit = top_p * G / BG - n_exact
        tl.store(limits + i_row, limit)
        tl.debug_barrier()
        b_share = b_pool
        if HELD and not POOLED:
            b_share = tl.load(p_share + o_c, mask=o_c < C, other=0.0)
    if HELD:
        b_key, b_share, b_size = rank(b_share, b_size, o_c < n_items)
    b_low, i_step = find_cut(b_key, b_size, p_share, p_size, n_items, n_room + 1, False, BC, CUTS, HELD)
    if STOP:
        b_weight = tl.where(b_size > 0, b_share, 0.0)
        b_share_low, i_step = find_cut(b_key, b_weight, p_share, p_size, n_items, limit, True, BC, CUTS, HELD)
    n_above, n_share_above = tl.zeros([], dtype=tl.int32), tl.zeros([], dtype=tl.float32)
    last = n_items
    if HELD:
        last = 1
    for i in range(0, last, BC):
        if not HELD:
            b_key, b_share, b_size = load_ranked(p_share, p_size, i + o_c, n_items)
        n_above += tl.sum(tl.where(b_key - b_low >= i_step, b_size, 0))
        if STOP:
            n_share_above += tl.sum(tl.where((b_key - b_share_low >= i_step) & (b_size > 0), b_share, 0.0))

    # clusters above both cuts; of those at a cut as many as fit, lower indices first
    tl.debug_barrier()
    n_taken = tl.zeros([], dtype=tl.int32)
    for i in range(0, last, BC):
        if not HELD:
            b_key, b_share, b_size = load_ranked(p_share, p_size, i + o_c, n_items)
            b_first = load_first(p_first, p_listed, i + o_c, n_items, LISTED)
        b_rest = b_key - b_low
        b_tie = tl.where((b_rest >= 0) & (b_rest < i_step), b_size, 0)
        m_opened = (b_rest >= i_step) | ((b_tie > 0) & (n_above + tl.cumsum(b_tie, axis=0) <= n_room))
        n_above += tl.sum(b_tie)
        if STOP:
            b_rest = b_key - b_share_low
            m_tie = (b_rest >= 0) & (b_rest < i_step) & (b_size > 0)
            b_tie = tl.where(m_tie, b_share, 0.0)
            b_before = n_share_above + tl.cumsum(b_tie, axis=0) - b_tie
            m_opened = m_opened & ((b_rest >= i_step) | (m_tie & (b_before < limit)))
            n_share_above += tl.sum(b_tie)
        m_opened = m_opened & (b_size > 0)
        tl.store(p_opened + i + o_c, m_opened.to(tl.int32), mask=i + o_c < n_items)
        b_held = tl.where(m_opened, b_size, 0)
        b_place = n_taken + tl.cumsum(b_held, axis=0) - b_held  # where its members begin in the list
        n_taken += tl.sum(b_held)
        tl.store(p_members + b_place, b_first - b_place, mask=m_opened)
    tl.store(taken + i_row, n_taken)
    tl.debug_barrier()
    # place t holds t + (first - place) of the last cluster that begins at or before it; these never decrease
    n_shift = tl.zeros([], dtype=tl.int32)
    for i in range(0, n_taken, BT):
        m_t = i + o_t < n_taken
        b_shift = tl.load(p_members + i + o_t, mask=m_t, other=0)
        b_shift = tl.maximum(tl.associative_scan(b_shift, 0, _larger), n_shift)
        n_shift = tl.max(b_shift)
        tl.store(p_members + i + o_t, i + o_t + b_shift, mask=m_t)


def decode_select(
    sizes: Tensor,
    first: Tensor,
    room: int,
    *,
    masses: Tensor | None = None,
    size: int = 0,
    shares: Tensor | None = None,
    listed: Tensor | None = None,
    n_listed: Tensor | None = None,
    norm: Tensor | None = None,
    top_p: float | None = None,
    limit: Tensor | None = None,
    stop: bool = True,
    rooms: Tensor | None = None,
    name: str = "top",
    work: Work | None = None,
    tile: Tile | None = None,
) -> Selection:
    """Open clusters in the order of their share per member, as long as all their members fit into `room` places.

    share_j = sum_g exp(a_gj - norm_g) with norm_g the log-sum-exp of all masses and exact logits. Nothing is
    sorted: a search finds the share at which the room is exceeded, several cuts a round; prefix sums turn the
    opened clusters into a list of members, ascending. Shares per member that agree to about 1 in 2,000, or lie
    below 1e-38, count as equal: the lower index first.

    Parameters
    ----------
    sizes, first : [R, room of the level] int32, how many members a cluster has below, and the first of them.
        The members of later clusters come later.
    room : places for members.
    masses, size : [R, G, C + E] fp32 of `decode_lookup`, and C; then shares, norm and limit are found here.
    shares, listed, n_listed, norm, limit : of `decode_lookup_listed` and of the selection above it; `sizes`
        then belongs to the listed entries and `first` to all clusters of the level.
    top_p : also stop once exact keys and opened clusters hold this share of the mass; with `stop` False only
        find the limit that this means for the level below.
    rooms : [R] int32, every row's own number of places, at most `room`.
    name : of the buffers in `work`.

    Bytes: 4 R G (C + E) with masses, from L2; 13 R C; 16 R room. Above one chunk of clusters the masses are read
    twice, and 8 R C more a round. Operations: 3 R C a cut, some 30 cuts.
    """
    work = work or Work()
    sizes, first = blocks_apart(sizes), blocks_apart(first)
    masses, shares, listed, n_listed, norm, limit, rooms = (
        None if x is None else x.contiguous() for x in (masses, shares, listed, n_listed, norm, limit, rooms)
    )
    known = shares is not None
    R = sizes.shape[0]
    like = shares if known else masses
    check_device("decode_select", like)
    G, C, E = (1, listed.shape[-1], 0) if known else (masses.shape[1], size, masses.shape[2] - size)
    if not known:
        shares, norm = work.take("top_shares", (R, C), like), work.take("norm", (R, G), like)
        limit = work.take("limit", (R,), like)
    members = work.take(f"{name}_members", (R, room), like, "int32")
    taken = work.take(f"{name}_taken", (R,), like, "int32")
    opened = work.take(f"{name}_opened", (R, C), like, "int32")
    tile = choose("decode_select", target_of(like), power_of_two(C), 4, tile)
    BG, BC, held = power_of_two(G, 1), min(power_of_two(C), tile.cols), tile.cols >= C
    launch(
        decode_select_kernel, (R,),
        (sizes, first), (first if listed is None else listed, first if n_listed is None else n_listed),
        like if masses is None else masses, shares, norm, like if limit is None else limit,
        first if rooms is None else rooms, (members, taken, opened), (sizes.stride(0), first.stride(0)),
        room, 1.0 if top_p is None else float(top_p), C, E,
        G=G, BG=BG, BP=min(max(16, tile.rows // BG), power_of_two(C)),
        BC=BC, BT=min(power_of_two(room), 1024 * tile.warps), CUTS=8 if BC <= 2048 else 4, HELD=held,
        POOLED=held and tile.rows >= BG * BC, LISTED=known, TOP_P=top_p is not None, STOP=top_p is not None and stop,
        ROOMS=rooms is not None, tile=tile,
    )  # fmt: skip
    return Selection(members, taken, opened, norm, limit)
