"""Buffers that the kernels of one decoding step write, kept from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..common.graphs import captured

T = TypeVar("T")


class Work:
    """Named buffers, made when first taken and again only when one must be larger.

    Give one `Work` to all steps of a cache: a step then allocates nothing, and a captured CUDA graph finds
    the same addresses. What a launcher returns may be such a buffer: the next step overwrites it.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._keeper: torch.cuda.CUDAGraph | None = None
        self._aside: torch.cuda.Stream | None = None

    def take(self, name: str, shape: tuple[int, ...], like: Tensor, dtype: str = "float32") -> Tensor:
        """A contiguous buffer of `shape` on the device of `like`; its contents are undefined."""
        size, kind = max(1, math.prod(shape)), getattr(torch, dtype)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or (buffer.device, buffer.dtype) != (like.device, kind):
            room = size if buffer is None else size + size // 4  # grow rarely
            buffer = self._buffers[name] = torch.empty(room, dtype=kind, device=like.device)
        return buffer[: math.prod(shape)].view(shape)

    def buffers(self) -> tuple[Tensor, ...]:
        """All buffers as they are now: who knows their addresses must keep them."""
        return tuple(self._buffers.values())

    def captured(self, call: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """Capture a step: what `graphs.captured` returns, in memory that the graphs of all steps share."""
        if self._aside is None:  # one for all: torch keeps some megabytes for the products of every stream
            self._aside = torch.cuda.Stream()
        if self._keeper is None:  # torch refuses a pool whose graphs are all gone: this one stays
            self._keeper, _ = captured(lambda: torch.zeros(1, device="cuda"), self._aside)
        return captured(call, self._aside, self._keeper.pool())

    def __deepcopy__(self, _: dict) -> Work:
        return Work()  # a copy of a cache makes its own

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(x.nbytes for x in self._buffers.values())


def processors(x: Tensor) -> int:
    """Multiprocessors of the device of `x`; those of an H100 where that is not a GPU."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 132
