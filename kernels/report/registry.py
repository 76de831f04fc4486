"""The list of kernels that the compile report goes through; each kernel file registers its own entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Problem:
    """A size to compile and to count for; the tensors made from it live on the `meta` device."""

    batch: int = 1
    query_heads: int = 32
    kv_heads: int = 8
    queries: int = 8192
    keys: int = 8192
    head: int = 64
    clusters: int = 64
    near: int = 4
    rank: int = 8
    dtype: torch.dtype = torch.float16

    @property
    def width(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor without storage."""
        return torch.empty(shape, dtype=dtype or self.dtype, device="meta")


@dataclass(frozen=True)
class Entry:
    """One launcher of the report.

    name : the launcher.
    example : runs the launcher on the `meta` tensors of a problem; called inside `launch.recording`.
    cost : bytes moved through device memory and operations done, by the formulas in the launcher's docstring.
    """

    name: str
    example: Callable[[Problem], object]
    cost: Callable[[Problem], tuple[float, float]]


_ENTRIES: dict[str, Entry] = {}


def register(
    name: str, example: Callable[[Problem], object], cost: Callable[[Problem], tuple[float, float]]
) -> None:
    """Add a launcher to the report."""
    _ENTRIES[name] = Entry(name, example, cost)


def entries() -> tuple[Entry, ...]:
    """All registered launchers, in the order of registration."""
    return tuple(_ENTRIES.values())


def cost_of(name: str, problem: Problem) -> tuple[float, float]:
    """Bytes and operations of a registered launcher."""
    return _ENTRIES[name].cost(problem)
