"""What every launcher shares: checks of the input, padded sizes, and the one door through which kernels go.

Every kernel is started by `launch`. Inside `recording(target)` the door only notes what would be started, so
that the compile report sees exactly the arguments and tile sizes that a launcher would use on that target,
and the launchers run on `meta` tensors (on which any host synchronisation fails).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from .derivatives import check_transform
from .tiles import Target, Tile

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Elements from one position to the next at most: a tile's 256 rows, counted in 32 bits, reach no further than this.
FARTHEST_STEP = 1 << 23
MIN_HEAD, MAX_HEAD = 16, 256
MIN_CAPABILITY = (7, 5)
# About two programs for each multiprocessor of a large device.
PROGRAMS = 256


@dataclass(frozen=True)
class Launch:
    """One recorded start of a kernel."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    tile: Tile


@dataclass
class Recorder:
    target: Target
    launches: list[Launch] = field(default_factory=list)


_RECORDER: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


@contextlib.contextmanager
def recording(target: Target) -> Iterator[list[Launch]]:
    """Within this context kernels are noted instead of started, with the tiles that `target` would get."""
    recorder = Recorder(target)
    token = _RECORDER.set(recorder)
    try:
        yield recorder.launches
    finally:
        _RECORDER.reset(token)


def interpreting() -> bool:
    """True when TRITON_INTERPRET=1 was set before triton was imported: kernels then run on CPU tensors."""
    return bool(triton.knobs.runtime.interpret)


def target_of(x: Tensor) -> Target:
    """What the device of `x` is to the table of tiles; that of an H100 where it is not a GPU."""
    if recorder := _RECORDER.get():
        return recorder.target
    return _device(x.device) if x.is_cuda else Target(90, 227)


@lru_cache
def _device(device: torch.device) -> Target:
    """Asked once, for every launch needs it."""
    properties = torch.cuda.get_device_properties(device)
    kb = properties.shared_memory_per_block_optin // 1024
    return Target(10 * properties.major + properties.minor, kb)


def fp32_precision(x: Tensor) -> str:
    """How products of fp32 tensors are formed: by three tf32 products where tensor cores have them."""
    tensor_cores = (x.is_cuda or _RECORDER.get() is not None) and target_of(x).capability >= 80
    return "tf32x3" if tensor_cores else "ieee"


def plain_when_wide(precision: str, head: int) -> str:
    """`precision`, but "ieee" above head size 64: for the kernels in which the split operands of tf32x3 would not
    fit into registers there. Half precision takes no notice of it."""
    return "ieee" if head > 64 else precision


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
    if _RECORDER.get() is not None or (x.device.type == "cpu" and interpreting()):
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


def power_of_two(size: int, least: int = 16) -> int:
    """The tile edge that holds `size` elements: a power of two, and 16 or more in a dot."""
    return max(least, 1 << (size - 1).bit_length())


def cdiv(size: int, edge: int) -> int:
    """How many tiles of an edge hold `size` elements. Triton's own is for kernels: called from the host it unwraps its
    arguments, which takes 3 us, a tenth of a launch."""
    return -(-size // edge)


def spans(items: int, programs: int) -> tuple[int, int]:
    """The items of a part and the number of parts, so that `programs` for each part fill a large device."""
    span = max(1, cdiv(items, cdiv(PROGRAMS, max(1, programs))))
    return span, cdiv(items, span)


def row_strided(x: Tensor) -> Tensor:
    """`x` itself if its last dimension is contiguous and no position lies far from the next, else a contiguous copy.

    All other strides are free. Copies are differentiable: call it before `apply`, so that the graph holds the input.
    """
    return x if x.stride(-1) == 1 and x.stride(-2) <= FARTHEST_STEP else x.contiguous()


def row_empty(x: Tensor) -> Tensor:
    """An empty tensor like `x` with its layout, where that has a contiguous last dimension, else a contiguous one."""
    empty = torch.empty_like(x)
    return empty if empty.stride(-1) == 1 else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def blocks_apart(x: Tensor) -> Tensor:
    """`x` itself if all but its first dimension are contiguous, as kernels read it that take that stride alone."""
    return x if x.is_contiguous() or x[:1].is_contiguous() else x.contiguous()


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


def check_layout(kernel: Any, names: Iterable[str], args: tuple) -> None:
    """Raise where a kernel would take a tensor for something that it is not.

    Of every tensor the last dimension must be contiguous, and every other stride must follow from the dimensions
    behind it or be among the arguments.
    """
    numbers = {n for a in args for n in (a if isinstance(a, tuple) else (a,)) if type(n) is int}
    for name, x in zip(names, args, strict=False):
        if not isinstance(x, Tensor) or x.is_contiguous():
            continue
        follows = 1
        for dimension in range(x.ndim - 1, -1, -1):
            size, stride = x.shape[dimension], x.stride(dimension)
            if size == 1:
                continue
            if stride != follows and (dimension == x.ndim - 1 or stride not in numbers):
                raise ValueError(
                    f"{getattr(kernel, '__name__', kernel)} is given {name} of shape {tuple(x.shape)} and strides "
                    f"{x.stride()}, but not the stride of dimension {dimension}; the launcher must make it contiguous"
                )
            follows = stride * size


def names_of(kernel: Any) -> list[str]:
    """The names of a kernel's parameters, compiled or interpreted."""
    return [p.name for p in kernel.params] if hasattr(kernel, "params") else kernel.arg_names


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, tile: Tile, **constants: Any) -> None:
    """Start `kernel` on `grid` with `tile`'s warps and stages; the other tile sizes are among `constants`."""
    if recorder := _RECORDER.get():
        names = names_of(kernel)
        check_layout(kernel, names, args)
        recorder.launches.append(Launch(kernel, grid, dict(zip(names, args, strict=False)) | constants, tile))
        return
    if 0 in grid:
        return
    device = next(a.device for a in args if isinstance(a, Tensor))
    if device.type == "cpu":  # interpreted: a GPU's time is not spent on it
        check_layout(kernel, names_of(kernel), args)
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        kernel[grid](*args, **constants, num_warps=tile.warps, num_stages=tile.stages)
