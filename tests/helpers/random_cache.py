"""A decode cache without any clustering: levels cut at random, some clusters empty, garbage where nothing is stored."""

import torch

from multipole_lab.decoding.store.sketch import Sketch
from multipole_lab.decoding.store.state import Level, State

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GARBAGE = 77.0


def level_over(keys, values, tokens, first, size, room, g):
    """Random contiguous ranges of what is below, some empty; means weighted by tokens. Rows [R, n, ..]."""
    R, n = tokens.shape
    cuts = torch.randint(0, n + 1, (R, size - 1), generator=g).sort(-1).values
    cuts = torch.cat([torch.zeros(R, 1), cuts, torch.full((R, 1), n)], -1).int()
    members = cuts.diff(dim=-1)
    place = torch.arange(n).expand(R, n).contiguous()
    owner = torch.searchsorted(cuts[:, 1:].contiguous(), place, right=True)
    weight = torch.nn.functional.one_hot(owner, size).mT * tokens[:, None]  # [R, size, n]
    total = weight.sum(-1)
    mean_keys, mean_values = (weight.to(x) @ x / total.clamp(min=1)[..., None] for x in (keys, values))

    def padded(x, fill):
        wide = torch.full((R, room, *x.shape[2:]), fill, dtype=x.dtype)
        wide[:, :size] = x
        return wide

    start = cuts[:, :-1] + first
    return [padded(x, GARBAGE) for x in (mean_keys, mean_values)] + [
        padded(x.int(), -5) for x in (total, start, members)
    ]


def make(B, Hq, Hk, N, D, Dv, sizes, sinks=4, tail=9, padded=False, spread=True, sketched=False, seed=0):
    """A cache of N clustered keys, its levels of the given sizes, garbage wherever nothing is stored.

    sketched : with codes and sizes at random, of residuals that are none of its keys'.
    """
    g = torch.Generator().manual_seed(seed)
    R, gap, spare = B * Hk, 3, 5
    clustered = sinks + N + gap
    length = clustered + tail

    def normal(*shape):
        return torch.randn(*shape, generator=g).half().double()

    keys, values = normal(R, length + spare, D), normal(R, length + spare, Dv)
    # keys drift, so that neighbours, and with them clusters, are alike
    keys += 2 * torch.linspace(-1, 1, length + spare)[:, None].double() * normal(R, 1, D)
    keys = keys.half().double()
    for x in (keys, values):
        x[:, sinks + N : clustered] = GARBAGE
        x[:, length:] = GARBAGE
    levels, below = [], (keys[:, sinks : sinks + N], values[:, sinks : sinks + N], torch.ones(R, N).int())
    first = sinks
    for size in sizes:
        level = level_over(*below, first, size, size + 2, g)
        levels.append(level)
        below, first = [x[:, :size] for x in level[:3]], 0
    q = normal(B, Hq, 1, D)
    codes = torch.randint(0, 256, (R, length + spare, -(-D // 4)), generator=g, dtype=torch.uint8)
    residuals = torch.full((R, length + spare), GARBAGE).double()
    residuals[:, sinks : sinks + N] = normal(R, N).abs() / 2
    valid = torch.rand(B, sinks + tail, generator=g) > 0.3 if padded else None
    if padded:
        valid[:, -1] = True

    def cache(dtype):
        def as_heads(x):
            x = x.view(B, Hk, *x.shape[1:])
            return x.to(DEVICE, dtype) if x.is_floating_point() else x.to(DEVICE)

        made = tuple(Level(*map(as_heads, level), size) for level, size in zip(levels, sizes, strict=True))
        mask = None if valid is None else valid.to(DEVICE)
        stored = as_heads(keys), as_heads(values)
        spreads = tuple(level.keys.square().mean(-1) / 50 for level in made) if spread else ()
        sketch = Sketch(as_heads(codes), as_heads(residuals)) if sketched else None
        return q.to(DEVICE, dtype), State(*stored, made, sinks, clustered, length, mask, spreads, sketch)

    return cache
