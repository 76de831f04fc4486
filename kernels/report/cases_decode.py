"""Examples of one decoding step for the compile report, and what its launchers cost."""

from __future__ import annotations

import torch

from ..decode.attend import Far, decode_attend
from ..decode.logits import Exact
from ..decode.lookup import decode_lookup, decode_lookup_listed
from ..decode.merge import decode_merge
from ..decode.select import decode_select
from ..decode.sketch import Residuals
from .problem import Problem


def decode_attend_example(p: Problem) -> None:
    R, G, D, N, C = p.batch * p.kv_heads, p.query_heads // p.kv_heads, p.head, p.keys, p.keys // 16
    q, keys, values = p.empty(R, G, D), p.empty(R, N, D), p.empty(R, N, D)
    exact = Exact(q, keys, 16, N - 128, N)

    def ints(*shape):
        return p.empty(*shape, dtype=torch.int32)

    def floats(*shape):
        return p.empty(*shape, dtype=torch.float32)

    opened = ints(R, C)
    top = Far(floats(R, G, C + 144), p.empty(R, C, D), C, opened)
    fine = Far(floats(R, G, C // 4), p.empty(R, C, D), C // 4, opened, ints(R, C // 4), ints(R))
    decode_attend(
        q, keys, values, 0.125, members=ints(R, N // 20), taken=ints(R), top=top, fine=fine, exact=exact,
        exact_masses=top.masses[..., C:],
    )  # fmt: skip


def decode_attend_cost(p: Problem) -> tuple[float, float]:
    """5% of the keys, one level of 1/16 centroids replaced, 144 exact keys."""
    rows, group = p.batch * p.kv_heads, p.query_heads / p.kv_heads
    near, far = p.keys / 20, p.keys / 16 + 144
    moved = (2 * near + far) * p.head * p.width + 4 * group * far
    return rows * moved, rows * group * p.head * (4 * near + 2 * far)


def decode_lookup_example(p: Problem) -> None:
    R, G, D, C = p.batch * p.kv_heads, p.query_heads // p.kv_heads, p.head, p.keys // 16
    q, centroids, tokens = p.empty(R, G, D), p.empty(R, C, D), p.empty(R, C, dtype=torch.int32)
    exact = Exact(q, p.empty(R, p.keys, D), 16, p.keys - 128, p.keys)
    spread = p.empty(R, C, dtype=torch.float32)
    decode_lookup(q, centroids, tokens, C, 0.125, exact=exact, spread=spread)
    listed, norm = p.empty(R, C // 4, dtype=torch.int32), p.empty(R, G, dtype=torch.float32)
    sketch = Residuals(
        p.empty(R, p.keys, (D + 3) // 4, dtype=torch.uint8),
        p.empty(R, p.keys),
        p.empty(R, C, dtype=torch.int32),
    )
    for more in ({"spread": spread}, {"sketch": sketch}):
        decode_lookup_listed(q, centroids, tokens, listed, p.empty(R, dtype=torch.int32), norm, 0.125, **more)


def decode_lookup_cost(p: Problem) -> tuple[float, float]:
    """One level, 1/16 centroids, 144 exact keys."""
    read, group = p.batch * p.kv_heads * (p.keys / 16 + 144), p.query_heads / p.kv_heads
    return read * (p.head * p.width + 4 * group), 2 * read * group * p.head


def decode_merge_example(p: Problem) -> None:
    R, G = p.batch * p.kv_heads, p.query_heads // p.kv_heads
    parts, part_lse = p.empty(R, 40, G, p.head, dtype=torch.float32), p.empty(R, 40, G, dtype=torch.float32)
    decode_merge(parts, part_lse, p.dtype)


def decode_merge_cost(p: Problem) -> tuple[float, float]:
    """40 chunks a row."""
    heads = p.batch * p.query_heads
    return 4 * heads * 40 * (p.head + 1), 2 * heads * 40 * p.head


def decode_select_example(p: Problem) -> None:
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


def decode_select_cost(p: Problem) -> tuple[float, float]:
    """One level, 1/16 centroids, 144 exact keys, 5% of the keys."""
    clusters, group = p.batch * p.kv_heads * p.keys / 16, p.query_heads / p.kv_heads
    moved = clusters * 13 + 4 * group * (clusters + p.batch * p.kv_heads * 144) + 12.8 * clusters
    return moved, 3 * 30 * clusters
