"""Calls whose inputs change from one to the next, so that no cache still holds what they read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Copies at most: the smallest inputs stay in the cache of any device anyway.
MOST = 32
# Bytes of cache to be larger than, where torch does not say.
CACHE = 64 << 20


def copies_needed(nbytes: int, device: torch.device) -> int:
    """How many copies of inputs of ``nbytes`` bytes are together at least twice the last cache of the device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        cache = getattr(properties, "L2_cache_size", CACHE)
        free = torch.cuda.mem_get_info(device)[0] // 2
    else:
        cache, free = 0, nbytes  # on a CPU, where nothing but the code is tried, one set is enough
    return max(1, min(MOST, 1 + 2 * cache // max(1, nbytes), free // max(1, nbytes)))


def copies_of(inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Copies of the inputs, the first of them the inputs themselves; gradients are asked of what asks for them."""
    device, nbytes = inputs[0].device, sum(x.nbytes for x in inputs)
    more = copies_needed(nbytes, device) - 1
    return [tuple(inputs)] + [
        tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs) for _ in range(more)
    ]


def cycled(call: Callable[..., object], sets: Sequence[tuple[Tensor, ...]]) -> Callable[[], object]:
    """A call without arguments that takes the next set of inputs every time."""
    endless = itertools.cycle(sets)
    return lambda: call(*next(endless))
