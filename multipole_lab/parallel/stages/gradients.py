"""Gradients of a part of a computation, whose upstream gradients come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def leaves_of(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    """Tensors cut off from the graph that made them; None stays None."""
    return {name: None if x is None else x.detach().requires_grad_() for name, x in tensors.items()}


def gradients(
    results: Sequence[Tensor], leaves: dict[str, Tensor | None], upstream: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradients of the leaves in their order: zeros where a result does not depend on one, None for None."""
    there = [x for x in leaves.values() if x is not None]
    pairs = [(x, dx.to(x.dtype)) for x, dx in zip(results, upstream, strict=True) if x.requires_grad]
    if pairs:
        outputs, grads = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, there, grads, allow_unused=True, materialize_grads=True)
    else:
        found = [torch.zeros_like(x) for x in there]
    found = iter(found)
    return [None if x is None else next(found) for x in leaves.values()]
