"""Partial results ``(out, lse)`` over disjoint sets of keys, and the one way in which they merge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from multipole_lab.suggesting import suggesting

Partial = tuple[Float[Tensor, "*batch N Dv"], Float[Tensor, "*batch N"]]


@suggesting
def merge(partials: Sequence[Partial]) -> Partial:
    """Attention over the union of the partials' keys.

    ``lse = log sum_i exp(lse_i)`` and ``out = sum_i exp(lse_i - lse) out_i``: exact for disjoint keys, in any
    order and nesting. Near field, far field, causal blocks and shards on other devices are all merged so.

    Parameters
    ----------
    partials : a sequence of ``(out [..., N, Dv], lse [..., N])``, natural logarithm, at least one. A partial that
        saw no key has ``lse = -inf`` and does not count, whatever numbers its ``out`` holds.

    Returns
    -------
    (out, lse), ``out`` in the dtype of the first partial's ``out``; where no partial saw a key, ``out`` is zero
    and ``lse`` is -inf.

    Raises
    ------
    ValueError : no partial, or shapes that disagree. TypeError : what is no pair of tensors.
    """
    partials = list(partials) if isinstance(partials, Iterable) else [partials]
    if not partials:
        raise ValueError("partials is empty; at least one (out, lse) is needed")
    for pair in partials:
        if not isinstance(pair, (tuple, list)) or [isinstance(x, Tensor) for x in pair] != [True, True]:
            raise TypeError(f"partials has a {type(pair).__name__}; pairs of tensors (out, lse) are needed")
        out, lse = pair
        if out.shape[:-1] != lse.shape or out.shape != partials[0][0].shape:
            raise ValueError(
                f"partials disagree: out {tuple(out.shape)} with lse {tuple(lse.shape)}; every out must be "
                f"{tuple(partials[0][0].shape)} and every lse {tuple(partials[0][0].shape[:-1])}"
            )
    if len(partials) == 1:
        return partials[0]
    out, lse = partials[0]
    for other, other_lse in partials[1:]:
        out, lse = _merge_two(out, lse, other, other_lse)
    return out, lse


def _merge_two(o1: Tensor, l1: Tensor, o2: Tensor, l2: Tensor) -> Partial:
    # exp(l2 - lse) = sigmoid(l2 - l1). Where one side saw nothing, this difference or a derivative of logaddexp may be
    # NaN: they are kept from it before, for a mask behind passes NaN gradients on.
    share = torch.where(l2 == -torch.inf, -torch.inf, l2 - l1).sigmoid().unsqueeze(-1)
    out = o1.to(share.dtype).lerp(o2.to(share.dtype), share)
    blind = (l1 == -torch.inf) | (l2 == -torch.inf)
    both = torch.logaddexp(l1.masked_fill(blind, 0.0), l2.masked_fill(blind, 0.0))
    return out.to(o1.dtype), torch.where(blind, torch.maximum(l1, l2), both)
