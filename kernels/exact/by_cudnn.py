"""Blocks of exact causal attention by cuDNN's own kernels, where those are faster than `leaf`: half precision, on a
GPU of compute capability 9.0 and up. On an H200 they take 0.6 of its time.

Queries, keys and values may be views of any strides; results have the strides of the queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.launch import target_on

aten = torch.ops.aten

# Below so many positions nothing was measured, and a launch is most of the time.
SHORTEST = 128
LARGEST_HEAD = 128
CAPABILITY = 90


def takes(dtype: torch.dtype, head: int, device: torch.device) -> bool:
    """Whether cuDNN attends to heads of that size and dtype on a device, and is allowed to."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and head % 8 == 0
        and head <= LARGEST_HEAD
        and target_on(device).capability >= CAPABILITY
        and torch.backends.cuda.cudnn_sdp_enabled()
        and torch.backends.cudnn.is_available()
    )


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether cuDNN takes these blocks [B, Hq, N, D] and [B, Hk, N, D]: as many queries as keys, one head size."""
    return (
        q.is_cuda
        and k.shape == v.shape
        and q.shape[2:] == k.shape[2:]
        and q.shape[2] >= SHORTEST
        and q.shape[0] * q.shape[1] > 0
        and takes(q.dtype, q.shape[-1], q.device)
        and all(map(_in_steps, (q, k, v)))
    )


def fits_backward(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """The same for `gradients`, whose last bits differ from call to call: not where torch is asked for equal ones."""
    return not torch.are_deterministic_algorithms_enabled() and fits(q, k, v)


def _in_steps(x: Tensor) -> bool:
    """Whether every row begins at a multiple of 16 bytes, and no two are one."""
    *outer, last = x.stride()
    return last == 1 and x.data_ptr() % 16 == 0 and all(n > 0 and n % 8 == 0 for n in outer)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention of blocks that `fits`: out [B, Hq, N, D] in the layout of q, lse [B, Hq, N] fp32."""
    out, lse, *_ = aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, True, False, scale=scale
    )
    return out, lse[..., 0]


def gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What the blocks give to q, k and v where out and lse [B, Hq, N] are over all keys, these and others.

    As in `leaf_backward`: P = exp(s q.k - lse), ds = P (do.v - do.out). Which program adds first to dq is not fixed, so
    that its last bits may differ from call to call.
    """
    dout = dout if _in_steps(dout) else dout.contiguous()
    random = torch.empty(0, dtype=torch.int64, device=q.device)  # of a dropout that there is not
    return aten._scaled_dot_product_cudnn_attention_backward(
        dout, q, k, v, out, lse.contiguous()[..., None], random, random, None, None, None, q.shape[2], k.shape[2],
        0.0, True, scale=scale,
    )  # fmt: skip
