"""Checks of what a launcher is given: devices, dtypes, shapes. The words name what is allowed, or `backend="torch"`."""

from __future__ import annotations

import torch
from torch import Tensor

from .derivatives import check_transform
from .launch import interpreting, is_recording, target_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MIN_HEAD, MAX_HEAD = 16, 256
MIN_CAPABILITY = (7, 5)


def check_tensors(operation: str, **tensors: Tensor | None) -> None:
    """Raise for what the kernels cannot run: the message names what is supported and `backend="torch"`.

    All given tensors must share one device, and be fp16, bf16 or fp32 of one dtype.
    """
    given = {name: x for name, x in tensors.items() if x is not None}
    if len({x.device for x in given.values()}) > 1:
        raise ValueError(
            f"{operation}: {', '.join(given)} are on different devices: "
            f"{', '.join(str(x.device) for x in given.values())}; move them to one device"
        )
    if len({x.dtype for x in given.values()}) > 1:
        raise TypeError(
            f"{operation}: {', '.join(given)} differ in dtype: "
            f"{', '.join(str(x.dtype) for x in given.values())}; convert them to one dtype"
        )
    check_transform(operation)
    name, x = next(iter(given.items()))
    if x.dtype not in DTYPES:
        raise TypeError(
            f"{operation}: {name} is {x.dtype}; the Triton kernels take float16, bfloat16 and "
            'float32; use backend="torch" for other dtypes'
        )
    check_device(operation, x)
    for name, x in given.items():
        size = x.shape[-1]
        if not MIN_HEAD <= size <= MAX_HEAD:
            raise ValueError(
                f"{operation}: {name} has head size {size}; the Triton kernels take {MIN_HEAD} to "
                f'{MAX_HEAD}; use backend="torch" for other sizes'
            )


def check_device(operation: str, x: Tensor) -> None:
    """Raise unless `x` is where kernels can run: CUDA 7.5 and up, or the CPU under the interpreter."""
    if is_recording() or (x.device.type == "cpu" and interpreting()):
        return
    if not x.is_cuda:
        raise ValueError(
            f"{operation}: tensors are on {x.device}; the Triton kernels need a CUDA device "
            "(compute capability 7.5 or later), or TRITON_INTERPRET=1 set before the start of "
            'Python for tensors on the CPU; use backend="torch" here'
        )
    capability = target_of(x).capability
    if divmod(capability, 10) < MIN_CAPABILITY:
        raise ValueError(
            f"{operation}: {torch.cuda.get_device_name(x.device)} has compute capability "
            f"{capability / 10}; the Triton kernels need 7.5 or later; "
            'use backend="torch"'
        )


def check_attention(operation: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise for what the kernels would read beyond: q [B, Hq, Nq, D], k [B, Hk, Nk, D], v [B, Hk, Nk, Dv]."""
    if not q.ndim == k.ndim == v.ndim == 4:
        needed = "q [B, Hq, Nq, D], k [B, Hk, Nk, D] and v [B, Hk, Nk, Dv] are needed"
    else:
        (B, Hq, _, D), (*one, Hk, Nk, size), of_v = q.shape, k.shape, v.shape
        if Hk == 0 or Hq % Hk:
            raise ValueError(f"{operation}: q has {Hq} heads, which is no multiple of the {Hk} heads of k")
        if (*one, size) == (B, D) and (B, Hk, Nk) == of_v[:3]:
            return
        needed = (
            "one batch, q and k of one head size, k and v of one number of heads and positions are needed"
        )
    shapes = ", ".join(f"{n} {tuple(x.shape)}" for n, x in {"q": q, "k": k, "v": v}.items())
    raise ValueError(f"{operation}: shapes are {shapes}; {needed}")


def check_given(
    operation: str, dtype: torch.dtype, like: Tensor, **given: tuple[Tensor | None, tuple[int, ...]]
) -> None:
    """Raise unless every tensor has this dtype, the shape beside it and the device of `like`; None passes."""
    for name, (x, shape) in given.items():
        if x is None:
            continue
        if x.dtype != dtype:
            raise TypeError(f"{operation}: {name} is {x.dtype}; {dtype} is needed")
        if x.shape != shape:
            raise ValueError(f"{operation}: {name} has shape {tuple(x.shape)}; {shape} is needed")
        if x.device != like.device:
            raise ValueError(f"{operation}: {name} is on {x.device}; {like.device} is needed")


def check_sorts(
    operation: str, like: Tensor, queries: tuple[int, ...], keys: tuple[int, ...], q_order: Tensor, q_offsets: Tensor,
    k_order: Tensor, k_offsets: Tensor,
) -> None:  # fmt: skip
    """Raise unless orders have the shapes of `queries` and `keys`, [.., N], and offsets, of C clusters, [.., C + 1]."""
    of_queries, of_keys = ((*n[:-1], x.shape[-1]) for n, x in ((queries, q_offsets), (keys, k_offsets)))
    check_given(
        operation, torch.int64, like, q_order=(q_order, queries), q_offsets=(q_offsets, of_queries),
        k_order=(k_order, keys), k_offsets=(k_offsets, of_keys),
    )  # fmt: skip
