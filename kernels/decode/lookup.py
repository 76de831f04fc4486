"""One decoding step, part 1: log masses of clusters from their centroids, and logits of the exact keys."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..common.checks import check_tensors
from ..common.launch import fp32_precision, launch, target_of
from ..common.layout import blocks_apart
from ..common.sizes import cdiv, power_of_two
from ..common.tiles import Tile, choose
from .logits import Exact, exact_rows, logits_of_rows, squares
from .sketch import Residuals, residual_masses
from .work import Work


@triton.jit(do_not_specialize=["C", "E", "ITEMS", "TILES", "EXACT_TILES", "sinks", "clustered"])
def decode_lookup_kernel(
    probe, level, lists, sketch, exact, found, scale, softcap, level_strides, sketch_strides, exact_strides,
    C, E, ITEMS, TILES, EXACT_TILES, sinks, clustered, G: tl.constexpr, D: tl.constexpr,
    BG: tl.constexpr, BP: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
    BN: tl.constexpr, LISTED: tl.constexpr, SPREAD: tl.constexpr, SKETCH: tl.constexpr,
    VALID: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # one program: BC clusters, or BC exact keys, of one row; all queries of its group
    # (ITEMS is C where there is a list: one name for both would keep i_row * C in registers, of which 7.5 has too few)
    centroids, tokens, spread = level
    listed, n_listed, norm = lists
    codes, residual_sizes, first = sketch
    q, keys, valid = exact
    masses, shares, sizes = found
    i_tile = tl.program_id(0) % (TILES + EXACT_TILES)
    i_row = (tl.program_id(0) // (TILES + EXACT_TILES)).to(tl.int64)
    o_g = tl.arange(0, BG)
    p_mass = masses + (i_row * G + o_g)[:, None] * (C + E)
    if i_tile < TILES:
        o_c = i_tile * BC + tl.arange(0, BC)
        m_c = o_c < C
        b_item = o_c
        if LISTED:
            m_c = o_c < tl.load(n_listed + i_row)
            b_item = tl.load(listed + i_row * ITEMS + o_c, mask=m_c, other=0)
        b_n = tl.load(tokens + i_row * level_strides[1] + b_item, mask=m_c, other=0)
        p_c = centroids + i_row * level_strides[0] + b_item.to(tl.int64) * D  # [BC]
        p_q = probe + i_row * G * D
        b_a = logits_of_rows(p_q, p_c, m_c, scale, softcap, G, D, BG, BD, BK, SOFTCAP, PRECISION)  # [BG, BC]
        if SKETCH:
            b_first = tl.load(first + i_row * sketch_strides[2] + b_item, mask=m_c, other=0)
            p_codes, p_size = codes + i_row * sketch_strides[0], residual_sizes + i_row * sketch_strides[1]
            b_a += residual_masses(p_q, p_codes, p_size, b_first, b_n, scale, G, D, BG, BD, BN, PRECISION)
        else:
            b_a += tl.log(tl.maximum(b_n, 1).to(tl.float32))[None, :]
        if SPREAD:
            b_spread = tl.load(spread + i_row * level_strides[2] + b_item, mask=m_c, other=0.0).to(tl.float32)
            b_a += squares(p_q, scale, G, D, BG, BD, BK)[:, None] * b_spread[None, :]
        b_a = tl.where((m_c & (b_n > 0))[None, :], b_a, float("-inf"))
        tl.store(p_mass + o_c[None, :], b_a, mask=(o_g < G)[:, None] & m_c[None, :])
        if LISTED:  # the norm is known: the share of the group, with what the choice needs beside it
            b_norm = tl.load(norm + i_row * G + o_g, mask=o_g < G, other=0.0)
            b_share = tl.where((o_g < G)[:, None], tl.exp(b_a - b_norm[:, None]), 0.0)
            tl.store(shares + i_row * C + o_c, tl.sum(b_share, axis=0) * (1.0 / BP), mask=m_c)
            tl.store(sizes + i_row * C + o_c, b_n, mask=m_c)
    else:
        stride_k, HK = exact_strides
        o_e = (i_tile - TILES) * BC + tl.arange(0, BC)
        m_e = o_e < E
        p_k = keys + i_row * stride_k + exact_rows(o_e, sinks, clustered) * D  # [BC]
        p_q = q + i_row * G * D
        b_a = logits_of_rows(p_q, p_k, m_e, scale, softcap, G, D, BG, BD, BK, SOFTCAP, PRECISION)
        if VALID:
            b_valid = tl.load(valid + (i_row // HK) * E + o_e, mask=m_e, other=0)
            b_a = tl.where((b_valid != 0)[None, :], b_a, float("-inf"))
        tl.store(p_mass + C + o_e[None, :], b_a, mask=(o_g < G)[:, None] & m_e[None, :])


def decode_lookup(
    probe: Tensor,
    centroids: Tensor,
    tokens: Tensor,
    size: int,
    scale: float,
    *,
    exact: Exact | None = None,
    spread: Tensor | None = None,
    sketch: Residuals | None = None,
    softcap: float | None = None,
    work: Work | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """The log masses of one whole level, and beside them the logits of the exact keys.

    a_gj = log tokens_j + s q_g.c_j [+ s^2 |q_g|^2 spread_j] for j < size, then s q_g.k_e for the exact keys. With a
    sketch, log sum_i exp(s q_g.r_i) over the members of j stands for the count and the spread.

    Parameters
    ----------
    probe : [R, G, D], the queries of the R = B Hk rows. centroids : [R, room, D], in the dtype of q (half the
        bytes) or fp32. tokens : [R, room] int32. size : C, the entries in use. spread : [R, room], or None for the
        first order alone. sketch : what is known of the members' residuals.

    Returns
    -------
    [R, G, C + E] fp32; -inf for an empty cluster and an exact key that is not valid.

    Bytes: R (C + E) D elements, 4 R G (C + E) written; with a sketch D / 4 + 2 a member. Operations: 2 R G (C + E) D,
    and 2 R G D a member.
    """
    work = work or Work()
    R, G = probe.shape[:2]
    E = exact.size if exact else 0
    masses = work.take("masses", (R, G, size + E), probe)
    _lookup(
        probe, centroids, tokens, size, scale, exact, spread, sketch, softcap, None, masses, None, None, tile
    )
    return masses


def decode_lookup_listed(
    probe: Tensor,
    centroids: Tensor,
    tokens: Tensor,
    listed: Tensor,
    n_listed: Tensor,
    norm: Tensor,
    scale: float,
    *,
    spread: Tensor | None = None,
    sketch: Residuals | None = None,
    softcap: float | None = None,
    work: Work | None = None,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The log masses of listed clusters only: the children of the opened coarse ones.

    Entry i < n_listed stands for cluster j = listed[i]: a_gi = log tokens_j + s q_g.c_j, and the group's
    share sum_g exp(a_gi - norm_g), times 2^-ceil(log2 G) to keep it below 1 (a power of two loses nothing).

    Parameters
    ----------
    listed : [R, L] int32, n_listed : [R] int32, norm : [R, G] fp32, from `decode_select`.
    The others : as for `decode_lookup`.

    Returns
    -------
    masses [R, G, L] fp32, shares [R, L] fp32, sizes [R, L] int32 (tokens_j); undefined from n_listed on.

    Bytes: R L D elements of centroids, gathered; 4 R L (G + 2) written. Operations: 2 R G L D.
    """
    work = work or Work()
    (R, G), L = probe.shape[:2], listed.shape[-1]
    masses, shares = work.take("fine_masses", (R, G, L), probe), work.take("shares", (R, L), probe)
    sizes = work.take("sizes", (R, L), probe, "int32")
    lists = (listed, n_listed, norm)
    _lookup(
        probe, centroids, tokens, L, scale, None, spread, sketch, softcap, lists, masses, shares, sizes, tile
    )
    return masses, shares, sizes


def _lookup(
    probe, centroids, tokens, C, scale, exact, spread, sketch, softcap, lists, masses, shares, sizes, tile
) -> None:
    check_tensors("decode_lookup", q=probe)
    check_tensors("decode_lookup", centroids=centroids)
    probe, centroids, tokens = probe.contiguous(), blocks_apart(centroids), blocks_apart(tokens)
    spread = None if spread is None or sketch else blocks_apart(spread)
    inner = Residuals(*map(blocks_apart, sketch)) if sketch else Residuals(tokens, probe, tokens)
    R, G, D = probe.shape
    listed, n_listed, norm = (x.contiguous() for x in lists) if lists else (tokens, tokens, masses)
    exact_q, keys = (exact.q.contiguous(), blocks_apart(exact.keys)) if exact else (probe, probe)
    valid = exact.valid.contiguous() if exact and exact.valid is not None else None
    E = exact.size if exact else 0
    name = "decode_sketch" if sketch else "decode_lookup"
    tile = choose(name, target_of(probe), power_of_two(D), probe.element_size(), tile)
    tiles, exact_tiles = cdiv(C, tile.cols), cdiv(E, tile.cols)
    launch(
        decode_lookup_kernel, (R * (tiles + exact_tiles),),
        probe, (centroids, tokens, tokens if spread is None else spread), (listed, n_listed, norm), tuple(inner),
        (exact_q, keys, tokens if valid is None else valid),
        (masses, masses if shares is None else shares, tokens if sizes is None else sizes), scale, softcap or 1.0,
        (centroids.stride(0), tokens.stride(0), 0 if spread is None else spread.stride(0)),
        tuple(x.stride(0) for x in inner),
        (keys.stride(0), R if valid is None else R // valid.shape[0]), C, E, listed.shape[-1], tiles, exact_tiles,
        exact.sinks if exact else 0, exact.clustered if exact else 0,
        G=G, D=D, BG=power_of_two(G), BP=power_of_two(G, 1), BD=power_of_two(D), BC=tile.cols,
        BK=min(64 if sketch else tile.rows, power_of_two(D)), BN=tile.rows,
        LISTED=lists is not None, SPREAD=spread is not None, SKETCH=sketch is not None, VALID=valid is not None,
        SOFTCAP=softcap is not None, PRECISION=fp32_precision(probe), tile=tile,
    )  # fmt: skip
