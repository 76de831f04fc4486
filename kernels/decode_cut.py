"""The clusters' shares of the mass, and where to stop opening them: at which share per member they exceed the room."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pool_shares(
    p_mass, p_share, p_norm, C, E, G: tl.constexpr, BG: tl.constexpr, BP: tl.constexpr, TOP_P: tl.constexpr
):
    """Every cluster's share of the mass, summed over the group (and scaled by 1 / BG): written to p_share.

    Returns the share of the exact keys.
    """
    o_g, o_p = tl.arange(0, BG), tl.arange(0, BP)
    b_max = tl.full([BG], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BG], dtype=tl.float32)
    for i in range(0, C + E, BP):
        m_a = (o_g < G)[:, None] & (i + o_p < C + E)[None, :]
        b_a = tl.load(p_mass + o_g[:, None] * (C + E) + i + o_p[None, :], mask=m_a, other=float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_a, axis=1))
        b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
        b_sum = b_sum * tl.exp(b_max - b_shift) + tl.sum(tl.exp(b_a - b_shift[:, None]), axis=1)
        b_max = b_new
    b_norm = tl.where(b_sum > 0, b_max + tl.log(tl.where(b_sum > 0, b_sum, 1.0)), 0.0)  # [BG]
    tl.store(p_norm + o_g, b_norm, mask=o_g < G)
    n_exact = tl.zeros([], dtype=tl.float32)
    last = C
    if TOP_P:
        last = C + E
    for i in range(0, last, BP):
        m_a = (o_g < G)[:, None] & (i + o_p < last)[None, :]
        b_a = tl.load(p_mass + o_g[:, None] * (C + E) + i + o_p[None, :], mask=m_a, other=float("-inf"))
        b_share = tl.sum(tl.exp(b_a - b_norm[:, None]), axis=0) * (1.0 / BG)  # [BP]
        tl.store(p_share + i + o_p, b_share, mask=i + o_p < C)
        if TOP_P:
            n_exact += tl.sum(tl.where(i + o_p >= C, b_share, 0.0))
    return n_exact


@triton.jit
def load_keys(p_share, p_size, o_c, n_items):
    """Shares per member as integers of the same order, shares, and sizes; shares are at least 0, some infinite."""
    b_share = tl.load(p_share + o_c, mask=o_c < n_items, other=0.0)
    b_share = tl.where(b_share == b_share, tl.minimum(b_share, 3.0e38), 0.0)
    b_size = tl.load(p_size + o_c, mask=o_c < n_items, other=0).to(tl.int32)
    b_each = tl.div_rn(b_share, tl.maximum(b_size, 1).to(tl.float32))
    return b_each.to(tl.int32, bitcast=True), b_share, b_size


@triton.jit
def members_above(b_key, b_size, i_cut, i_step):
    """The members at or above the three cuts i_cut + (1, 2, 3) i_step (int64 scalars), 21 bits each."""
    i_last = tl.full([], 2147483647, dtype=tl.int64)  # above every key
    b_size = b_size.to(tl.int64)
    b_sum = tl.where(b_key >= tl.minimum(i_cut + i_step, i_last).to(tl.int32), b_size, 0)
    b_sum += tl.where(b_key >= tl.minimum(i_cut + 2 * i_step, i_last).to(tl.int32), b_size << 21, 0)
    b_sum += tl.where(b_key >= tl.minimum(i_cut + 3 * i_step, i_last).to(tl.int32), b_size << 42, 0)
    return tl.sum(b_sum)


@triton.jit
def find_cut(p_share, p_size, n_room, n_items, BC: tl.constexpr, ONCE: tl.constexpr):
    """The largest key at or above which the members exceed the room, and the members strictly above it.

    Two bits of the key a round, 31 bits in all. Where everything fits the cut is -1.
    """
    o_c = tl.arange(0, BC)
    b_key, _, b_size = load_keys(p_share, p_size, o_c, n_items)
    i_cut = tl.full([], -1, dtype=tl.int64)
    i_step = tl.full([], 1, dtype=tl.int64)
    n_above = tl.zeros([], dtype=tl.int64)
    for i_round in range(0, 18):  # round 0 asks whether all fits, round 17 what lies above the cut
        if ONCE:
            n_packed = members_above(b_key, b_size, i_cut, i_step)
        else:
            n_packed = tl.zeros([], dtype=tl.int64)
            for i in range(0, n_items, BC):
                b_key, _, b_size = load_keys(p_share, p_size, i + o_c, n_items)
                n_packed += members_above(b_key, b_size, i_cut, i_step)
        n_first, n_second, n_third = n_packed & 0x1FFFFF, (n_packed >> 21) & 0x1FFFFF, n_packed >> 42
        if i_round == 0:
            i_cut = tl.where(n_first > n_room, 0, i_cut)
            i_step = tl.where(n_first > n_room, 1073741824, 0).to(tl.int64)
            n_above = n_first
        elif i_round < 17:
            i_cut += tl.where(n_first > n_room, i_step, 0)
            i_cut += tl.where(n_second > n_room, i_step, 0)
            i_cut += tl.where(n_third > n_room, i_step, 0)
            i_step = tl.where(i_step > 1, i_step >> 2, i_step)
        elif i_cut >= 0:
            n_above = n_first
    return i_cut.to(tl.int32), n_above.to(tl.int32)


@triton.jit
def find_share_cut(p_share, p_size, limit, n_items, BC: tl.constexpr):
    """The largest key at or above which the shares reach the limit (-1: none), and the share above."""
    o_c = tl.arange(0, BC)
    i_cut = tl.full([], -1, dtype=tl.int32)
    n_above = tl.zeros([], dtype=tl.float32)
    for i_round in range(0, 33):
        i_try = tl.where(i_round == 0, 0, i_cut + (1 << tl.maximum(31 - i_round, 0)))
        i_try = tl.where(i_round == 32, i_cut + 1, i_try)
        n_share = tl.zeros([], dtype=tl.float32)
        for i in range(0, n_items, BC):
            b_key, b_share, b_size = load_keys(p_share, p_size, i + o_c, n_items)
            n_share += tl.sum(tl.where((b_key >= i_try) & (b_size > 0), b_share, 0.0))
        if i_round == 32:
            n_above = n_share
        elif (n_share >= limit) & ((i_round == 0) | (i_cut >= 0)):
            i_cut = i_try
    return i_cut, n_above
