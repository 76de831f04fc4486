"""The one door through which kernels go: it starts them, or notes what would be started.

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

from .layout import check_layout
from .tiles import Target, Tile


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


def is_recording() -> bool:
    """Whether kernels are noted instead of started."""
    return _RECORDER.get() is not None


def interpreting() -> bool:
    """True when TRITON_INTERPRET=1 was set before triton was imported: kernels then run on CPU tensors."""
    return bool(triton.knobs.runtime.interpret)


def target_of(x: Tensor) -> Target:
    """What the device of `x` is to the table of tiles; that of an H100 where it is not a GPU."""
    if recorder := _RECORDER.get():
        return recorder.target
    return target_on(x.device) if x.is_cuda else Target(90, 227)


@lru_cache
def target_on(device: torch.device) -> Target:
    """Asked once, for every launch needs it."""
    properties = torch.cuda.get_device_properties(device)
    kb = properties.shared_memory_per_block_optin // 1024
    return Target(10 * properties.major + properties.minor, kb)


def fp32_precision(x: Tensor) -> str:
    """How products of fp32 tensors are formed: by three tf32 products where tensor cores have them."""
    tensor_cores = (x.is_cuda or is_recording()) and target_of(x).capability >= 80
    return "tf32x3" if tensor_cores else "ieee"


def plain_when_wide(precision: str, head: int) -> str:
    """`precision`, but "ieee" above head size 64: for the kernels in which the split operands of tf32x3 would not
    fit into registers there. Half precision takes no notice of it."""
    return "ieee" if head > 64 else precision


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
