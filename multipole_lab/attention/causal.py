"""Causal attention by a binary block recursion: ``causal(N) = causal(N/2), causal(N/2), full(right -> left)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention.calls.leaf import Leaf, leaf_length
from multipole_lab.attention.clusters.slots import Labels
from multipole_lab.attention.exact import exact_causal, exact_partial
from multipole_lab.attention.partials import Partial, merge

Full = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Partial]
# Of all queries, keys, their mask, the size of the leaves and the number of levels: the labels at every level.
FindLabels = Callable[[Tensor, Tensor, Tensor | None, int, int], Sequence[tuple[Labels, Labels]]]


def causal_attention(
    full: Full,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    leaf: int,
    past: Full | None = None,
    backend: str = "auto",
    labels: FindLabels | None = None,
    earlier: bool = False,
) -> Partial:
    """Causal attention of the last Nq of Nk positions, from an approximation ``full`` of full attention.

    The keys before the first query are one full block, by ``past`` if that is given, and exact where there are no
    more than ``leaf``. The square that is left is cut into 2^L blocks of one size, at most ``leaf``: exact on the
    diagonal, and at every level above it one call of ``full`` for all pairs of neighbours, the right one's queries
    over the left one's keys. ``full`` gets the labels of both as a last argument, where ``labels`` finds them for all
    levels at once, or the left one's queries, where it asks for those that are ``earlier``. MuSe (2509.10406),
    section 4.
    """
    before = k.shape[2] - q.shape[2]
    seen, own = (None, None) if mask is None else (mask[:, :before], mask[:, before:])
    square = _square(full, q, k[:, :, before:], v[:, :, before:], scale, own, leaf, backend, labels, earlier)
    if before == 0:
        return square
    k, v = k[:, :, :before], v[:, :, :before]
    if before <= leaf:
        return merge([square, exact_partial(q, k, v, scale, mask=seen, backend=backend)])
    return merge([square, (past or full)(q, k, v, scale, seen)])


def with_sinks(
    attend: Full,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    sinks: int,
    causal: bool,
    backend: str = "auto",
) -> Partial:
    """``attend`` over the keys behind the first ``sinks``, merged with exact attention over those."""
    sinks = min(sinks, k.shape[2])
    if sinks == 0:
        return attend(q, k, v, scale, mask)
    first, rest = (None, None) if mask is None else (mask[:, :sinks], mask[:, sinks:])
    head = k[:, :, :sinks], v[:, :, :sinks]
    tail = k[:, :, sinks:], v[:, :, sinks:]
    among = max(0, sinks - (k.shape[2] - q.shape[2])) if causal else 0  # queries that are themselves sinks
    partials = []
    if among:
        partials.append(exact_causal(q[:, :, :among], *head, scale, first, backend))
    if among < q.shape[2]:
        later = q[:, :, among:]
        exact = exact_partial(later, *head, scale, mask=first, backend=backend)
        partials.append(merge([exact, attend(later, *tail, scale, rest)]) if tail[0].shape[2] else exact)
    if len(partials) == 1:
        return partials[0]
    return torch.cat([p[0] for p in partials], 2), torch.cat([p[1] for p in partials], 2)


def block_sizes(positions: int, leaf: Leaf) -> tuple[int, int]:
    """The size of the blocks on the diagonal and how many times they are doubled; "auto" as on a CPU."""
    levels = (-(-positions // leaf_length(leaf)) - 1).bit_length()
    return -(-positions // (1 << levels)), levels


def _square(
    full: Callable[..., Partial],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    leaf: int,
    backend: str,
    labels: FindLabels | None,
    earlier: bool,
) -> Partial:
    """The recursion for Nq = Nk, from the leaves up."""
    N = q.shape[2]
    block, levels = block_sizes(N, leaf)
    # Positions that fill up the last blocks come after all real ones, so that only they themselves see them.
    extra = (block << levels) - N
    if extra:
        q, k, v = (pad(x, (0, 0, 0, extra)) for x in (q, k, v))
        mask = None if mask is None else pad(mask, (0, extra), value=True)
    B, H = k.shape[:2]
    out, lse = exact_partial(
        *(blocks(x, H, block) for x in (q, k, v)),
        scale,
        causal=True,
        mask=_mask_blocks(mask, H, block),
        backend=backend,
    )
    out, lse = _unblock(out, B, H), _unblock(lse.unsqueeze(-1), B, H)
    found = labels(q, k, mask, block, levels) if labels and levels else None
    for level in range(levels):
        size = block << level
        left, right = sides(H, size)
        given = (left(q),) if earlier else ()
        if found is not None:
            given = (tuple(map(of_side, found[level], (right, left))),)
        upper = full(right(q), left(k), left(v), scale, _mask_blocks(mask, H, size, 0), *given)
        out, lse = _merge_right(
            out, lse, _unblock(upper[0], B, H), _unblock(upper[1].unsqueeze(-1), B, H), size
        )
    return out[:, :, :N], lse[:, :, :N, 0]


def sides(heads: int, size: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What takes the left, and what the right block of every pair of blocks of a size, as ``blocks`` does."""
    return partial(blocks, heads=heads, size=size, side=0), partial(blocks, heads=heads, size=size, side=1)


def of_side(labels: Labels, side: Callable[[Tensor], Tensor]) -> Labels:
    """The labels of those blocks that ``side`` takes."""
    return labels._replace(of=side(labels.of.unsqueeze(-1)).squeeze(-1))


def _merge_right(
    out: Tensor, lse: Tensor, upper: Tensor, upper_lse: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Merge what the right block of every pair saw of the left one, [B, H, N / 2, .], into out and lse [B, H, N, .]."""
    (left, right), (left_lse, right_lse) = (_pairs(x, size).unbind(3) for x in (out, lse))
    new, new_lse = (_pairs(x, size, 1)[:, :, :, 0] for x in (upper, upper_lse))
    merged, merged_lse = merge([(right, right_lse[..., 0]), (new, new_lse[..., 0])])
    if not merged.requires_grad:  # half of the copies, where nothing needs the old values
        right.copy_(merged)
        right_lse.copy_(merged_lse.unsqueeze(-1))
        return out, lse
    out = torch.stack([left, merged], 3).view(out.shape)
    return out, torch.stack([left_lse, merged_lse.unsqueeze(-1)], 3).view(lse.shape)


def _pairs(x: Tensor, size: int, members: int = 2) -> Tensor:
    """[B, H, N, D] as [B, H, pairs, members, size, D]."""
    B, H, _, D = x.shape
    return x.reshape(B, H, -1, members, size, D)


def blocks(x: Tensor, heads: int, size: int, side: int | None = None) -> Tensor:
    """Blocks of the sequence, all of them or each pair's side 0 or 1: [B * Hk * blocks, H / Hk, size, D].

    Every block of a key/value head is a batch entry of its own, with the query heads that read it. So blocks of keys
    and values are no copies, nor are those of queries where every head has keys of its own.
    """
    B, H, _, D = x.shape
    blocks = _pairs(x, size, 1)[:, :, :, 0] if side is None else _pairs(x, size)[:, :, :, side]
    return blocks.unflatten(1, (heads, H // heads)).transpose(2, 3).flatten(0, 2)


def _unblock(x: Tensor, batch: int, heads: int) -> Tensor:
    """The inverse of ``blocks`` without a side."""
    blocks = x.unflatten(0, (batch, heads, -1)).transpose(2, 3)  # [B, Hk, H / Hk, blocks, size, D]
    return blocks.flatten(3, 4).flatten(1, 2)


def _mask_blocks(mask: Tensor | None, heads: int, size: int, side: int | None = None) -> Tensor | None:
    """The mask [B, N] of every block."""
    if mask is None:
        return None
    return blocks(mask[:, None, :, None].expand(-1, heads, -1, -1), heads, size, side)[:, 0, :, 0]
