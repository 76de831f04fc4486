"""Tensors that grow at their end without a copy per step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

# Spare space kept when a buffer grows. A thirty-second costs 3% of memory and copies every token 32 times in
# all, which is less than what one step of attention reads.
SLACK = 32
LEAST = 16


def kept(function: Callable) -> Callable:
    """Let a function make its tensors outside of ``torch.inference_mode``.

    What is made inside can never be written to outside, and a cache that was filled there goes on elsewhere.
    """

    @functools.wraps(function)
    def outside(*args: object, **kwargs: object) -> object:
        if not torch.is_inference_mode_enabled() and not torch.is_grad_enabled():
            return function(*args, **kwargs)  # entering both costs as much as a launch
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return outside


class Growing:
    """A [B, H, n, ...] tensor that is appended to and cut off along its third dimension.

    ``buffer`` is contiguous [B, H, capacity, ...] with ``length`` positions in use; it is reallocated, with
    one copy, when they run out. Memory is at most ``length (1 + 1/32) + 16`` positions; during that copy the
    old buffer lives too.

    Parameters
    ----------
    shape : [B, H, n, ...] of the tensors to come; n is ignored.
    dtype, device : theirs.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        B, H, _, *rest = shape
        self.buffer = torch.empty((B, H, 0, *rest), dtype=dtype, device=device)
        self.length = 0

    def view(self) -> Tensor:
        """What is in use, without a copy."""
        return self.buffer[:, :, : self.length]

    def append(self, x: Tensor) -> None:
        """Put ``x`` [B, H, n, ...] behind what is there, in this buffer's dtype."""
        end = self.length + x.shape[2]
        self.hold(end)
        self.buffer[:, :, self.length : end] = x
        self.length = end

    def hold(self, length: int) -> None:
        """Make room for ``length`` positions in all, before they come."""
        if length > self.buffer.shape[2]:
            self._reserve(length + max(LEAST, length // SLACK))

    def truncate(self, length: int) -> None:
        """Forget everything from ``length`` on; the memory stays for what comes next."""
        self.length = min(self.length, length)

    def select(self, index: Tensor) -> None:
        """Take batch entries ``index`` [B'], repeated or in another order."""
        _, H, capacity, *rest = self.buffer.shape
        fresh = self.buffer.new_empty((index.numel(), H, capacity, *rest))
        fresh[:, :, : self.length] = self.view().index_select(0, index.to(self.buffer.device))
        self.buffer = fresh

    @property
    def nbytes(self) -> int:
        """Bytes of the whole buffer, spare space included."""
        return self.buffer.numel() * self.buffer.element_size()

    def _reserve(self, capacity: int) -> None:
        B, H, _, *rest = self.buffer.shape
        fresh = self.buffer.new_empty((B, H, capacity, *rest))
        fresh[:, :, : self.length] = self.view()
        self.buffer = fresh
