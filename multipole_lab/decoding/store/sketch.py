"""Two bits a coordinate of what a key differs from its cluster's mean by: then no mean hides a sharp key.

The residual ``r = k - c`` of a key, t its root mean square, is kept as a code in {-3, -1, 1, 3} for each coordinate
(the sign, and whether ``|r_d| > t``) and one size, with which ``size * code`` comes nearest to r: of normal numbers
less than 12% of ``|r|^2`` is left. The log mass of a cluster j is the mean's logit and a sum over its members,

    ``a_gj = s q_g.c_j + log sum_i exp(s q_g.r_i)``,

of which the count ``log tokens_j`` and half the variance are the first terms. Keys of D numbers of two bytes take
``D / 4 + 2`` more beside the ``4 D`` of keys and values: 7% for D = 64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from multipole_lab.attention.expansion import NEVER, softmax_by_owner
from multipole_lab.clustering.clusters import statistics_dtype

# Codes in one byte. Byte j holds those of coordinates j, j + W, j + 2 W and j + 3 W, where W bytes make a key.
PACKED = 4


class Sketch(NamedTuple):
    """The residuals of all keys in clusters, by their place in the storage.

    codes : [..., n, W] bytes, W = D / 4 rounded up. sizes : [..., n] in the cache's dtype.
    """

    codes: UInt8[Tensor, "*R n W"]
    sizes: Float[Tensor, "*R n"]


def sketch(residual: Float[Tensor, "*R n D"]) -> Sketch:
    """Codes and sizes of residuals; the size in their dtype."""
    r = torch.nan_to_num(residual, nan=0.0, posinf=0.0, neginf=0.0)
    t = r.square().mean(-1, keepdim=True).sqrt()
    level = (r > -t).to(torch.uint8) + (r > 0) + (r > t)
    code = 2 * level.to(r.dtype) - 3
    size = (r * code).sum(-1) / code.square().sum(-1)
    level = torch.nn.functional.pad(level, (0, -level.shape[-1] % PACKED)).unflatten(-1, (PACKED, -1))
    codes = level[..., 0, :] | level[..., 1, :] << 2 | level[..., 2, :] << 4 | level[..., 3, :] << 6
    return Sketch(codes, size)


def codes_of(packed: UInt8[Tensor, "*R n W"], D: int, dtype: torch.dtype) -> Float[Tensor, "*R n D"]:
    """The codes as numbers."""
    shifts = torch.arange(0, 2 * PACKED, 2, dtype=torch.uint8, device=packed.device).unsqueeze(-1)
    level = (packed.unsqueeze(-2) >> shifts) & 3
    return 2 * level.flatten(-2)[..., :D].to(dtype) - 3


def owners(
    first: Int[Tensor, "R C"], tokens: Int[Tensor, "R C"], n: int
) -> tuple[Int[Tensor, "R n"], Bool[Tensor, "R n"]]:
    """The cluster of every place below n, and whether it is in one; padding and sinks are in none."""
    ends = (first + tokens).long()
    place = torch.arange(n, device=first.device).repeat(first.shape[0], 1)
    owner = torch.searchsorted(ends, place, right=True).clamp(max=first.shape[1] - 1)
    return owner, (place >= first.gather(1, owner)) & (place < ends.gather(1, owner))


def sketch_block(
    x: Float[Tensor, "R n D"],
    order: Int[Tensor, "R n"],
    means: Float[Tensor, "R C D"],
    first: Int[Tensor, "R C"],
    tokens: Int[Tensor, "R C"],
) -> Sketch:
    """Sketches of the keys of blocks in the order of their clusters; ``first`` counts from a block's start.

    ``means`` as the cache stores them: their rounding is part of the residual.
    """
    R, n, D = x.shape
    dtype = statistics_dtype(x.dtype)
    owner, _ = owners(first, tokens, n)
    rows = torch.arange(R, device=x.device).unsqueeze(-1)
    codes, sizes = sketch(x[rows, order].to(dtype) - means[rows, owner].to(dtype))
    return Sketch(codes, sizes.to(x.dtype))


def residual_masses(
    q: Float[Tensor, "R G D"],
    sketches: Sketch,
    first: Int[Tensor, "R C"],
    tokens: Int[Tensor, "R C"],
    end: int,
    scale: float,
) -> Float[Tensor, "R G C"]:
    """``log sum_i exp(s q_g.r_i)`` over the members of every cluster, all before ``end``; ``NEVER`` for empty ones."""
    codes = codes_of(sketches.codes[:, :end], q.shape[-1], q.dtype)
    logits = torch.bmm(codes, (scale * q).mT).mT * sketches.sizes[:, :end].to(q.dtype).unsqueeze(1)
    owner, inside = owners(first, tokens, end)
    logits = logits.masked_fill(~inside.unsqueeze(1), NEVER)
    return softmax_by_owner(logits, owner, first.shape[1])[1]
