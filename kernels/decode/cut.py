"""The clusters' shares of the mass, and where to stop opening them: at which share per member they exceed the room."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_masses(p_mass, o_c, n_masses, stride, G: tl.constexpr, BG: tl.constexpr):
    """[BG, BC]: the masses o_c below n_masses, -inf elsewhere."""
    o_g = tl.arange(0, BG)
    m_a = (o_g < G)[:, None] & (o_c < n_masses)[None, :]
    return tl.load(p_mass + o_g[:, None] * stride + o_c[None, :], mask=m_a, other=float("-inf"))


@triton.jit
def fold_masses(b_max, b_sum, b_a, b_b):
    """`softmax_weights` without values, for two tiles of masses [BG, BC] in one reduction: the new b_max and b_sum."""
    b_new = tl.maximum(b_max, tl.max(tl.maximum(b_a, b_b), axis=1))
    b_shift = tl.where(b_new > float("-inf"), b_new, 0.0)
    b_e = tl.exp(b_a - b_shift[:, None]) + tl.exp(b_b - b_shift[:, None])
    return b_new, b_sum * tl.exp(b_max - b_shift) + tl.sum(b_e, axis=1)


@triton.jit
def pool_shares(
    p_mass, p_share, p_norm, C, E,
    G: tl.constexpr, BG: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, HELD: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """Every cluster's share of the mass, summed over the group (and scaled by 1 / BG), and that of the exact keys.

    HELD: all C <= BC clusters at once, whose shares [BC] are returned. Otherwise BP at a time, written to p_share.
    """
    o_g, o_c, o_p = tl.arange(0, BG), tl.arange(0, BC), tl.arange(0, BP)
    b_max = tl.full([BG], float("-inf"), dtype=tl.float32)
    b_sum = tl.zeros([BG], dtype=tl.float32)
    start = 0
    if HELD:  # with the first of the exact keys, for one reduction costs as much as another
        b_all = load_masses(p_mass, o_c, C, C + E, G, BG)  # [BG, BC]
        b_exact = load_masses(p_mass, C + o_c, C + E, C + E, G, BG)
        b_max, b_sum = fold_masses(b_max, b_sum, b_all, b_exact)
        start = C + BC
    for i in range(start, C + E, 2 * BP):
        b_a = load_masses(p_mass, i + o_p, C + E, C + E, G, BG)
        b_b = load_masses(p_mass, i + BP + o_p, C + E, C + E, G, BG)
        b_max, b_sum = fold_masses(b_max, b_sum, b_a, b_b)
    b_norm = tl.where(b_sum > 0, b_max + tl.log(tl.where(b_sum > 0, b_sum, 1.0)), 0.0)  # [BG]
    tl.store(p_norm + o_g, b_norm, mask=o_g < G)
    if HELD:
        b_share = tl.sum(tl.exp(b_all - b_norm[:, None]), axis=0) * (1.0 / BG)  # [BC]
    else:
        b_share = tl.zeros([BC], dtype=tl.float32)  # not looked at
        for i in range(0, C, BP):
            b_a = load_masses(p_mass, i + o_p, C, C + E, G, BG)
            b_part = tl.sum(tl.exp(b_a - b_norm[:, None]), axis=0) * (1.0 / BG)  # [BP]
            tl.store(p_share + i + o_p, b_part, mask=i + o_p < C)
    n_exact = tl.zeros([], dtype=tl.float32)
    if TOP_P:
        for i in range(C, C + E, BP):
            b_a = load_masses(p_mass, i + o_p, C + E, C + E, G, BG)
            n_exact += tl.sum(tl.exp(b_a - b_norm[:, None])) * (1.0 / BG)
    return b_share, n_exact


@triton.jit
def rank(b_share, b_size, m_c):
    """Shares per member as integers of the same order, shares made finite, and sizes; 0 where m_c is not set."""
    b_share = tl.where(m_c & (b_share == b_share), tl.minimum(b_share, 3.0e38), 0.0)
    b_size = tl.where(m_c, b_size, 0)
    b_each = tl.div_rn(b_share, tl.maximum(b_size, 1).to(tl.float32))
    return b_each.to(tl.int32, bitcast=True), b_share, b_size


@triton.jit
def load_ranked(p_share, p_size, o_c, n_items):
    """`rank` of the entries o_c."""
    m_c = o_c < n_items
    return rank(tl.load(p_share + o_c, mask=m_c, other=0.0), tl.load(p_size + o_c, mask=m_c, other=0), m_c)


@triton.jit
def weigh(b_rest, b_weight, i_step, CUTS: tl.constexpr):
    """[CUTS]: the weights of the entries that reach 1, 2, .. steps."""
    b_cut = (tl.arange(0, CUTS) + 1) * i_step
    return tl.sum(tl.where(b_rest[None, :] >= b_cut[:, None], b_weight[None, :], 0), axis=1)


@triton.jit
def find_cut(
    b_key, b_weight, p_share, p_size, n_items, limit,
    SHARES: tl.constexpr, BC: tl.constexpr, CUTS: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """The largest low such that the weights (sizes; with SHARES shares) of keys from there on reach the limit.

    Returns low [BC], the same everywhere (-1 or less where all weights do not reach the limit), and the step of
    the last round: low + step does not reach the limit. Keys between are shares that agree to 1 in 2,000.

    A scalar would have to be agreed upon by all threads, which costs more than a round of the search, whereas
    sums over `axis=0` stay in a thread if a column does.
    """
    o_c = tl.arange(0, BC)
    b_low = tl.full([BC], -1, dtype=tl.int32)
    i_step = tl.full([], 2139095041, dtype=tl.int32)  # from -1 to infinity, which is above every key
    while i_step > 4096:
        i_step = (i_step - 1) // (CUTS + 1) + 1
        if HELD:
            b_sum = weigh(b_key - b_low, b_weight, i_step, CUTS)
        else:
            b_sum = tl.zeros([CUTS], dtype=limit.dtype)
            for i in range(0, n_items, BC):
                b_k, b_share, b_n = load_ranked(p_share, p_size, i + o_c, n_items)
                b_w = b_n
                if SHARES:
                    b_w = tl.where(b_n > 0, b_share, 0.0)
                b_sum += weigh(b_k - b_low, b_w, i_step, CUTS)
        b_all = tl.broadcast_to(b_sum[:, None], [CUTS, BC])
        b_low += tl.sum((b_all >= limit).to(tl.int32), axis=0) * i_step
    return b_low, i_step
