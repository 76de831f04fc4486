"""One decoding step, part 2: the clusters of largest share per member that fit, and a list of their members."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .decode_cut import find_cut, find_share_cut, load_keys, pool_shares
from .decode_tiles import Tile, choose
from .decode_work import Work
from .launch import check_device, launch, power_of_two, target_of
from .registry import Problem, register

MAX_MEMBERS = (1 << 21) - 1  # three sums of members travel in one int64 while the cut is searched


class Selection(NamedTuple):
    """What `decode_select` chose.

    members : [R, room] int32, of which the first taken [R] are filled. opened : [R, C] int8, 1 for a chosen
    cluster. norm : [R, G], limit : [R] fp32, for the level below.
    """

    members: Tensor
    taken: Tensor
    opened: Tensor
    norm: Tensor
    limit: Tensor


@triton.jit(do_not_specialize=["room", "C", "E", "ITEMS"])
def _select_kernel(
    masses, shares, sizes, first, listed, n_listed, limits, rooms, members, taken, opened, norm, base,
    room, top_p, stride_s, stride_f, C, E, ITEMS,
    G: tl.constexpr, BG: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr,
    ONCE: tl.constexpr, LISTED: tl.constexpr, TOP_P: tl.constexpr, STOP: tl.constexpr, ROOMS: tl.constexpr,
):  # fmt: skip
    # one program: one row
    i_row = tl.program_id(0).to(tl.int64)
    p_share, p_size, p_opened = shares + i_row * C, sizes + i_row * stride_s, opened + i_row * C
    p_members, p_base = members + i_row * room, base + i_row * room
    o_t = tl.arange(0, BT)
    for i in range(0, room, BT):
        tl.store(p_members + i + o_t, tl.zeros([BT], dtype=tl.int32), mask=i + o_t < room)
    n_items = C
    limit = top_p
    if LISTED:
        n_items = tl.load(n_listed + i_row)
        if STOP:
            limit = tl.load(limits + i_row)
    else:
        p_mass = masses + i_row * G * (C + E)
        limit = top_p * G / BG - pool_shares(p_mass, p_share, norm + i_row * G, C, E, G, BG, BP, TOP_P)
        tl.store(limits + i_row, limit)
    n_room = room
    if ROOMS:
        n_room = tl.minimum(tl.load(rooms + i_row), room)
    tl.debug_barrier()
    i_cut, n_above = find_cut(p_share, p_size, n_room, n_items, BC, ONCE)
    i_share_cut = tl.full([], -1, dtype=tl.int32)
    n_share_above = tl.zeros([], dtype=tl.float32)
    if STOP:
        i_share_cut, n_share_above = find_share_cut(p_share, p_size, limit, n_items, BC)

    # clusters above both cuts; of those at a cut as many as fit, lower indices first
    n_tie = tl.zeros([], dtype=tl.int32)
    n_share_tie = tl.zeros([], dtype=tl.float32)
    n_opened = tl.zeros([], dtype=tl.int64)  # clusters in the upper half, members in the lower
    for i in range(0, n_items, BT):
        b_key, b_share, b_size = load_keys(p_share, p_size, i + o_t, n_items)
        b_tie = tl.where(b_key == i_cut, b_size, 0)
        m_fits = (b_key == i_cut) & (n_above + n_tie + tl.cumsum(b_tie, axis=0) <= n_room)
        m_opened = (b_size > 0) & ((b_key > i_cut) | m_fits)
        n_tie += tl.sum(b_tie)
        if STOP:
            b_tie = tl.where((b_key == i_share_cut) & (b_size > 0), b_share, 0.0)
            b_before = n_share_above + n_share_tie + tl.cumsum(b_tie, axis=0) - b_tie
            m_opened = m_opened & ((b_key > i_share_cut) | ((b_key == i_share_cut) & (b_before < limit)))
            n_share_tie += tl.sum(b_tie)
        tl.store(p_opened + i + o_t, m_opened.to(tl.int8), mask=i + o_t < n_items)
        b_packed = tl.where(m_opened, b_size.to(tl.int64) + 4294967296, 0)
        b_before = n_opened + tl.cumsum(b_packed, axis=0) - b_packed
        n_opened += tl.sum(b_packed)
        b_place = (b_before & 0xFFFFFFFF).to(tl.int32)  # where the cluster's members begin in the list
        b_item = i + o_t
        if LISTED:
            b_item = tl.load(listed + i_row * ITEMS + b_item, mask=m_opened, other=0)
        b_first = tl.load(first + i_row * stride_f + b_item, mask=m_opened, other=0)
        tl.store(p_base + (b_before >> 32), b_first - b_place, mask=m_opened)
        tl.store(p_members + b_place, tl.full([BT], 1, dtype=tl.int32), mask=m_opened)
    n_taken = (n_opened & 0xFFFFFFFF).to(tl.int32)
    tl.store(taken + i_row, n_taken)
    tl.debug_barrier()
    n_seen = tl.zeros([], dtype=tl.int32)
    for i in range(0, n_taken, BT):
        m_t = i + o_t < n_taken
        b_mark = tl.load(p_members + i + o_t, mask=m_t, other=0)  # 1 where a cluster begins
        b_which = n_seen + tl.cumsum(b_mark, axis=0) - 1
        n_seen += tl.sum(b_mark)
        b_base = tl.load(p_base + b_which, mask=m_t, other=0)
        tl.store(p_members + i + o_t, i + o_t + b_base, mask=m_t)


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
    sorted: bisection finds the share at which the room is exceeded, two bits a round, and prefix sums turn
    the opened clusters into a list of members, ascending. Equal shares: the lower index first.

    Parameters
    ----------
    sizes, first : [R, room of the level] int32, how many members a cluster has below, and the first of them.
    room : places for members; at most MAX_MEMBERS members may exist.
    masses, size : [R, G, C + E] fp32 of `decode_lookup`, and C; then shares, norm and limit are found here.
    shares, listed, n_listed, norm, limit : of `decode_lookup_listed` and of the selection above it; `sizes`
        then belongs to the listed entries and `first` to all clusters of the level.
    top_p : also stop once exact keys and opened clusters hold this share of the mass; with `stop` False only
        find the limit that this means for the level below.
    rooms : [R] int32, every row's own number of places, at most `room`.
    name : of the buffers in `work`.

    Bytes: 8 R G (C + E) with masses, from L2; then R C (8 + 18 * 8 above one chunk of clusters, else 8) and
    16 R room. Operations: 18 * 6 R C.
    """
    work = work or Work()
    known = shares is not None
    R = sizes.shape[0]
    like = shares if known else masses
    check_device("decode_select", like)
    G, C, E = (1, listed.shape[-1], 0) if known else (masses.shape[1], size, masses.shape[2] - size)
    if not known:
        shares, norm = work.take("top_shares", (R, C), like), work.take("norm", (R, G), like)
        limit = work.take("limit", (R,), like)
    members = work.take(f"{name}_members", (R, room), like, "int32")
    base = work.take(f"{name}_base", (R, room), like, "int32")
    taken = work.take(f"{name}_taken", (R,), like, "int32")
    opened = work.take(f"{name}_opened", (R, C), like, "int8")
    tile = choose("decode_select", target_of(like), power_of_two(C), 4, tile)
    BG, BC = power_of_two(G, 1), min(power_of_two(C), tile.cols)
    launch(
        _select_kernel, (R,),
        like if masses is None else masses, shares, sizes, first,
        first if listed is None else listed, first if n_listed is None else n_listed,
        like if limit is None else limit, first if rooms is None else rooms, members, taken, opened, norm, base,
        room, 1.0 if top_p is None else float(top_p), sizes.stride(0), first.stride(0), C, E,
        0 if listed is None else listed.shape[-1],
        G=G, BG=BG, BP=max(16, tile.rows // BG), BC=BC, BT=tile.rows, ONCE=C <= BC,
        LISTED=known, TOP_P=top_p is not None, STOP=top_p is not None and stop, ROOMS=rooms is not None, tile=tile,
    )  # fmt: skip
    return Selection(members, taken, opened, norm, limit)


def _example(p: Problem) -> None:
    R, G, C = p.batch * p.kv_heads, p.query_heads // p.kv_heads, p.keys // 16

    def ints(*shape):
        return p.empty(*shape, dtype=torch.int32)

    for clusters in (C, 4 * C, 16 * C):
        sizes, masses = ints(R, clusters), p.empty(R, G, clusters + 144, dtype=torch.float32)
        top = decode_select(sizes, sizes, clusters, masses=masses, size=clusters, top_p=0.9)
        shares = p.empty(R, clusters, dtype=torch.float32)
        decode_select(
            sizes, sizes, clusters, shares=shares, listed=sizes, n_listed=top.taken,
            norm=top.norm, limit=top.limit, top_p=0.9, rooms=top.taken,
        )  # fmt: skip


def _cost(p: Problem) -> tuple[float, float]:
    """One level, 1/16 centroids, 144 exact keys, 5% of the keys."""
    clusters, group = p.batch * p.kv_heads * p.keys / 16, p.query_heads / p.kv_heads
    moved = clusters * 16 + 8 * group * (clusters + p.batch * p.kv_heads * 144) + 12.8 * clusters
    return moved, 18 * 6 * clusters


register("decode_select", _example, _cost)
