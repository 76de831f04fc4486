"""Keys join clusters: blocks of a layer's storage are clustered and written back in the order of their clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from multipole_lab.decoding.store.blocks import cluster_block, take
from multipole_lab.decoding.store.levels import Block, numbers_before, seeds_of, write_part
from multipole_lab.decoding.store.sketch import sketch_block

if TYPE_CHECKING:
    from multipole_lab.decoding.store.hierarchy import Hierarchy

# Numbers of keys that kernels cluster at once, copies of them included a gigabyte or two in half precision.
TOGETHER = 1 << 28


def clusterer(h: Hierarchy) -> tuple[Callable, bool]:
    """The function that clusters a block, and whether it is the kernels', which take many blocks at once."""
    if not h.by_kernels:
        return cluster_block, False
    from multipole_lab.decoding.store import kernel_blocks

    return kernel_blocks.cluster_block, True


def join_blocks(h: Hierarchy, end: int) -> None:
    """Fill the last block and open new ones, until every key before ``end`` is in a cluster."""
    cluster, together = clusterer(h)
    block = h.settings.block
    most = max(1, TOGETHER // (block * h.keys.buffer[:, :, 0].numel())) if together else 1
    while h.clustered < end:
        last = h.blocks[-1]
        if last.end - last.start >= block:
            last = Block(last.end, last.end, tuple(level.keys.length for level in h.levels))
            h.blocks.append(last)
        fresh = last.start == last.end
        count = min((end - last.start) // block, most) if fresh else 1
        recluster(h, cluster, min(block, end - last.start), max(1, count))


def centroids_of(h: Hierarchy, block: Block) -> Float[Tensor, "R C D"]:
    """The means of the last block's clusters, without those of its outliers: the ones of most keys."""
    fine, first = h.levels[0], block.clusters[0]
    keys, tokens = (x.view()[:, :, first:].flatten(0, 1) for x in (fine.keys, fine.tokens))
    _, outliers = h.settings.clusters(block.end - block.start)
    if not outliers:
        return keys
    return take(keys, tokens.topk(tokens.shape[1] - outliers, -1).indices.sort(-1).values)


def recluster(h: Hierarchy, cluster: Callable, size: int, count: int) -> None:
    """Cluster ``size`` keys from the last block's start on, those of the block once more; and the next of that size.

    Parameters
    ----------
    cluster : ``cluster_block``, or the kernels' function of that name.
    count : blocks clustered at once; more than one where the last block has no keys yet.
    """
    s, block = h.settings, h.blocks[-1]
    B, Hk = h.keys.buffer.shape[:2]
    R, end = B * Hk, block.start + size * count

    def rows(x: Tensor) -> Tensor:
        """[B, Hk, count * size, ...] as one row a block."""
        return x.flatten(0, 1).unflatten(1, (count, size)).flatten(0, 1)

    if (known := h.position.length) < end:
        tail = torch.arange(known, end, device=h.keys.buffer.device)
        h.position.append(tail.expand(B, Hk, -1))
    place = h.position.view()[:, :, block.start : end]
    k, v = (store.view()[:, :, block.start : end] for store in (h.keys, h.values))
    x = rows(k if h.rotation is None else h.rotation.rotate(k, -place))
    valid = None if h.valid is None else h.valid[:, None].expand(B, Hk, -1).gather(2, place.long())
    valid = None if valid is None else rows(valid)
    weights = h.metric.weights()
    if weights is not None:
        weights = weights.repeat_interleave(count, 0)
    fine, outliers = s.clusters(size)
    old = centroids_of(h, block)
    old = old.unsqueeze(1).expand(R, count, *old.shape[1:]).flatten(0, 1)
    starts = [block.start + i * size for i in range(count)]
    seeds = seeds_of(
        x, old, fine, block.end - block.start, valid, [s.seed + start + size for start in starts]
    )
    if weights is not None:
        seeds = seeds * weights
    fresh = block.start == block.end  # what was clustered before starts close to where it ends
    order, parts = cluster(
        x, rows(v), valid, seeds, s.iterations if fresh else min(1, s.iterations), s.cap,
        s.branch if s.levels == 2 else None, weights, outliers,
    )  # fmt: skip
    if h.sketch is not None:
        fine = parts[0]
        found = sketch_block(x, order, fine.keys.to(x.dtype), fine.first, fine.tokens)
        for store, part in zip(h.sketch, found, strict=True):
            store.truncate(block.start)
            store.append(part.new_zeros(B, Hk, block.start - store.length, *part.shape[2:]))  # of sinks
            store.append(part.unflatten(0, (B, Hk, count)).flatten(2, 3))
    for store in (k, v):
        store.copy_(take(rows(store), order).view_as(store))
    place.copy_(rows(place).gather(1, order).view_as(place))
    firsts = [
        tuple(c + i * part.keys.shape[1] for c, part in zip(block.clusters, parts, strict=True))
        for i in range(count)
    ]
    below = starts, [first[0] for first in firsts]
    for level, part, base, first in zip(h.levels, parts, below, block.clusters, strict=False):
        base = numbers_before(base, place.device)
        write_part(level, part, first, base, (B, Hk), s.spread)
    h.blocks[-1:] = [Block(start, start + size, first) for start, first in zip(starts, firsts, strict=True)]
