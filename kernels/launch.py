"""What every launcher shares: checks of the input, padded sizes, and the one door through which kernels go.

Every kernel is started by `launch`. Inside `recording(target)` the door only notes what would be started, so
that the compile report sees exactly the arguments and tile sizes that a launcher would use on that target,
and the launchers run on `meta` tensors (on which any host synchronisation fails).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from .tiles import Target, Tile

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
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
    span = cdiv(items, cdiv(PROGRAMS, programs))
    return span, cdiv(items, span)


def row_strided(x: Tensor) -> Tensor:
    """`x` itself if its last dimension is contiguous (any other strides are fine), else a contiguous copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, tile: Tile, **constants: Any) -> None:
    """Start `kernel` on `grid` with `tile`'s warps and stages; the other tile sizes are among `constants`."""
    if recorder := _RECORDER.get():
        names = [p.name for p in kernel.params] if hasattr(kernel, "params") else kernel.arg_names
        recorder.launches.append(Launch(kernel, grid, dict(zip(names, args, strict=False)) | constants, tile))
        return
    if 0 in grid:
        return
    device = next(a.device for a in args if isinstance(a, Tensor))
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        kernel[grid](*args, **constants, num_warps=tile.warps, num_stages=tile.stages)
