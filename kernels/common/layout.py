"""How tensors lie in memory: what kernels read as it is, what is copied first, what would be read wrongly, and the
views of causal blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

# Elements from one position to the next at most: a tile's 256 rows, counted in 32 bits, reach no further than this.
FARTHEST_STEP = 1 << 23


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


def flat_heads(*tensors: Tensor) -> list[Tensor]:
    """[B H, N, D]: batch entries become heads. Groups stay together, and every block is then a view."""
    return [row_strided(x.reshape(-1, *x.shape[2:])) for x in tensors]


def blocks_of(x: Tensor, size: int) -> Tensor:
    """[H, N, D] as the view [N / size, H, size, D]."""
    return x.unflatten(1, (-1, size)).transpose(0, 1)


def whole_of(x: Tensor) -> Tensor:
    """The way back from `blocks_of`, without a copy where the memory is still that of [H, N, D]."""
    return x.transpose(0, 1).flatten(1, 2)


def sides(size: int, which: str, *tensors: Tensor) -> list[Tensor]:
    """Of every pair of blocks of each [H, N, D], the left or right one ("l", "r"): views [pairs, H, size, D]."""
    return [
        x.unflatten(1, (-1, 2, size))[:, :, "lr".index(side)].transpose(0, 1)
        for side, x in zip(which, tensors, strict=True)
    ]


def level_blocks(q: Tensor, k: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What is clustered at the level of blocks of a size: the right blocks' queries and the left blocks' keys.

    q [B, Hq, N, D] and k [B, Hk, N, D] as [pairs, B Hq, size, D] and [pairs, B Hk, size, D]; views where batch and
    heads have one stride.
    """
    return tuple(sides(size, "rl", q.flatten(0, 1), k.flatten(0, 1)))


def flat(names: Iterable[str], args: tuple) -> Iterator[tuple[str, Any]]:
    """The arguments of a kernel with their names; of a tuple every part, as name[0], name[1] ..."""
    for name, value in zip(names, args, strict=False):
        if isinstance(value, tuple):
            yield from flat((f"{name}[{i}]" for i in range(len(value))), value)
        else:
            yield name, value


def check_layout(kernel: Any, names: Iterable[str], args: tuple) -> None:
    """Raise where a kernel would take a tensor for something that it is not.

    Of every tensor the last dimension must be contiguous, and every other stride must follow from the dimensions
    behind it or be among the arguments.
    """
    given = list(flat(names, args))
    numbers = {x for _, x in given if type(x) is int}
    for name, x in given:
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
