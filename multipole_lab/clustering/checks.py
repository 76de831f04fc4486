"""What a clustering refuses, in words that name the argument, what came and what is allowed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Statistics are formed in them, or in float32; a float8 tensor has scales that are not known here.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(x: object, name: str, shape: str) -> None:
    """A torch tensor; ``shape`` says which."""
    if isinstance(x, Tensor):
        return
    made = hasattr(x, "__array__") or isinstance(x, (list, tuple))
    hint = ": torch.as_tensor makes one of it" if made else ""
    raise TypeError(f"{name} is a {type(x).__name__}; a torch tensor {shape} is needed{hint}")


def check_vectors(x: Tensor, name: str = "x") -> None:
    """A dense [B, H, N, D] tensor of float16, bfloat16, float32 or float64 with at least one vector."""
    check_tensor(x, name, "[B, H, N, D]")
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():
        raise NotImplementedError(
            "torch.jit.trace would keep the blocks and clusters of the example for every input; use torch.compile or "
            "torch.export"
        )
    if x.is_nested:
        raise TypeError(
            f"{name} is a nested tensor; a dense one [B, H, N, D] is needed: x.to_padded_tensor(0.0), and lengths= "
            "where a method is called"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name} has layout {x.layout}; a dense tensor is needed: x.to_dense()")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; a floating dtype is needed")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {x.dtype}; float16, bfloat16, float32 or float64 is needed")
    if x.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; four dimensions [B, H, N, D] are needed")
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; no dimension may be empty")


def check_count(name: str, value: object, least: int) -> None:
    """An integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; an integer is needed")
    if value < least:
        raise ValueError(f"{name} is {value}; at least {least} is needed")


def check_flag(name: str, value: object) -> None:
    """True or False: any other value would count as one of them, the word "no" as True."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; True or False is needed")


def check_seed(seed: object) -> None:
    """An integer that a torch generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}; an integer is needed")
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}; from -2^63 to 2^64 - 1 is allowed")


def check_cap(cap: object) -> None:
    """None, or a finite number of at least 1."""
    if cap is None:
        return
    if isinstance(cap, bool) or not isinstance(cap, (int, float)):
        raise TypeError(f"cap is {cap!r}; a number of at least 1 or None is needed")
    if not (cap >= 1 and math.isfinite(cap)):
        raise ValueError(f"cap is {cap}; at least 1 is needed, or None for no limit")


def check_mask(mask: Tensor | None, batch: int, length: int, name: str = "mask") -> None:
    """None, or a boolean [B, N] with True for what counts."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"{name} is {getattr(mask, 'dtype', type(mask).__name__)}; a boolean tensor is needed"
        )
    if tuple(mask.shape) != (batch, length):
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; [B, N] = [{batch}, {length}] is needed")


def check_clustering(
    x: Tensor, clusters: int, iterations: int, cap: float | None, seed: int, mask: Tensor | None
) -> None:
    """Everything that ``kmeans`` refuses."""
    check_vectors(x)
    check_count("clusters", clusters, 1)
    check_count("iterations", iterations, 0)
    check_cap(cap)
    check_seed(seed)
    check_mask(mask, x.shape[0], x.shape[2])
    if clusters > x.shape[2]:
        raise ValueError(f"clusters is {clusters}; at most the number of vectors, {x.shape[2]}, is allowed")
