"""Which causal block an error comes from: every block approximated alone, all others exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from multipole_lab.attention import Exact, MuSe
from multipole_lab.attention.calls.leaf import settled_for
from multipole_lab.attention.causal import block_sizes, of_side, sides
from multipole_lab.attention.clusters.assignments import Assignments
from multipole_lab.attention.clusters.slots import Slots
from multipole_lab.attention.muse_formula import muse_formula
from multipole_lab.printing import one_line


@dataclass(frozen=True)
class BlockLevel:
    """All full blocks of one level of the causal recursion.

    Attributes
    ----------
    size : queries and keys of a block. Block i has the queries from (2 i + 1) size and the keys from 2 i size.
    error : [pairs]. Relative squared error of the whole head when this block alone is approximated.
    mass : [pairs]. Mean share of the softmax mass that the block's queries find in it; NaN for one beyond the end.
    added : [pairs]. Squared length of what the block adds to the output, over that of the head's whole output.
    """

    size: int
    error: Float[np.ndarray, " pairs"]
    mass: Float[np.ndarray, " pairs"]
    added: Float[np.ndarray, " pairs"]

    __repr__ = one_line


@torch.inference_mode()
def block_errors(
    q: Float[Tensor, "1 1 N D"],
    k: Float[Tensor, "1 1 N D"],
    v: Float[Tensor, "1 1 N Dv"],
    method: MuSe,
    scale: float | None = None,
) -> list[BlockLevel]:
    """Return the levels above the exact leaf (of ``method.leaf``), smallest blocks first.

    With the exact partial ``(o_b, l_b)`` of a block, its approximation ``(o~_b, l~_b)``, and the head's exact
    ``(o, l)``: ``w = exp(l_b - l)``, ``w~ = exp(l~_b - l)``, and the output with that block alone approximated is
    ``(o - w o_b + w~ o~_b) / (1 - w + w~)``. MuSe (2509.10406), section 4.

    Raises
    ------
    ValueError : a method with sinks, which would be exact in every block, or of earlier points.
    """
    if method.sinks:
        raise ValueError(f"method: sinks are {method.sinks}; errors of blocks are of methods without")
    N, exact = q.shape[2], Exact()
    out, lse = exact(q, k, v, causal=True, scale=scale, return_lse=True)
    method = settled_for(method, q, v)
    size, count = block_sizes(N, method.leaf)
    extra = (size << count) - N
    q, k, v, out = (pad(x, (0, 0, 0, extra)) for x in (q, k, v, out))
    lse = pad(lse, (0, extra))
    energy = out.double().square().sum()
    levels = []
    s = q.shape[-1] ** -0.5 if scale is None else scale
    expansion = method._expansion(s, q.shape[-1])
    for found in method._level_labels(q, k, None, size, count) if count else ():
        of_left, of_right = sides(1, size)
        right = [of_right(x) for x in (q, out, lse.unsqueeze(-1))]
        left = [of_left(x) for x in (k, v)]
        every = torch.ones(left[0].shape[:3], dtype=torch.bool)
        o, l = right[1:]
        clusters = Assignments(
            *(Slots.laid_out(of_side(*x)) for x in zip(found, (of_right, of_left), strict=True)), every
        )
        o_b, l_b = exact(right[0], *left, scale=scale, return_lse=True)
        o_a, l_a = muse_formula(right[0], *left, clusters, expansion)
        w, w_a = (x.unsqueeze(-1).sub(l).exp() for x in (l_b, l_a))
        wrong = (o - w * o_b + w_a * o_a) / (1 - w + w_a).clamp(min=1e-30) - o
        real = of_right(torch.arange(N + extra).view(1, 1, -1, 1) < N)  # fill counts for nothing
        error = torch.where(real, wrong.double(), 0.0).square().sum((1, 2, 3)) / energy
        mass = torch.where(real, w, 0.0).sum((1, 2, 3)) / real.sum((1, 2, 3))
        added = torch.where(real, (w * o_b).double(), 0.0).square().sum((1, 2, 3)) / energy
        levels.append(BlockLevel(size, error.numpy(), mass.numpy(), added.numpy()))
        size *= 2
    return levels
