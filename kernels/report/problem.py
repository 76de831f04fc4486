"""A size to compile the kernels for, and to count what they move and do."""

from __future__ import annotations

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
