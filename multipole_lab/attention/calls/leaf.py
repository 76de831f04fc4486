"""How long the exact leaves of causal attention are where that is left to the lab: ``leaf="auto"``."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal, Protocol, TypeVar

import torch

from multipole_lab.clustering.checks import check_count
from multipole_lab.suggesting import check_choice

Leaf = int | Literal["auto"]
T = TypeVar("T")

# Where products take the time, as on a CPU.
SHORT = 1024
# Where cuDNN attends to the leaves, a product costs so little that these are faster, and the error is smaller.
BY_CUDNN = 4096
# The kernels of runs attend to their leaves themselves, on the same devices.
IN_RUNS = 2048


class Leafed(Protocol):
    """A method with leaves that may be "auto"."""

    leaf: Leaf
    partition: str
    backend: str


def check_leaf(leaf: object) -> None:
    """A number of positions, or "auto"."""
    if isinstance(leaf, str):
        check_choice("leaf", leaf, ("auto",), " or a number of positions")
    else:
        check_count("leaf", leaf, 1)


def leaf_length(leaf: Leaf) -> int:
    """The positions of a leaf at most, on a CPU."""
    return SHORT if leaf == "auto" else leaf


def settled(method: T, device: torch.device | str, dtype: torch.dtype, head_size: int) -> T:
    """The method with leaves of a number of positions: what its "auto" is for such tensors.

    A method whose leaves have a number, or that has none, is returned as it is.
    """
    if getattr(method, "leaf", None) != "auto":
        return method
    return _with_leaf(method, _automatic(method, torch.device(device), dtype, head_size))


def settled_for(method: T, q: torch.Tensor, v: torch.Tensor) -> T:
    """The same for these queries and values."""
    return settled(method, q.device, q.dtype, max(q.shape[-1], v.shape[-1]))


def _automatic(method: Leafed, device: torch.device, dtype: torch.dtype, head_size: int) -> int:
    if device.type != "cuda" or method.backend == "torch":
        return SHORT
    from multipole_lab.kernels.exact.by_cudnn import takes

    if not takes(dtype, head_size, device):
        return SHORT
    return IN_RUNS if method.partition == "runs" else BY_CUDNN


@lru_cache(maxsize=256)
def _with_leaf(method: T, leaf: int) -> T:
    """Kept, for every call asks."""
    return replace(method, leaf=leaf)
