"""The smallest kernel: `multipole-lab doctor` runs it to learn whether Triton works on this machine."""

import torch
import triton
import triton.language as tl


@triton.jit
def double_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def double(x: torch.Tensor) -> torch.Tensor:
    """Return ``2 * x``: 2 * x.numel() elements moved, x.numel() operations.

    Parameters
    ----------
    x : Tensor, any shape and strides
        On a CUDA device, or anywhere under ``TRITON_INTERPRET=1``.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    double_kernel[(triton.cdiv(x.numel(), 256),)](x, out, x.numel(), BLOCK=256)
    return out
