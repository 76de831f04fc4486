"""Tile sizes: one table, keyed by kernel, shared memory (and capability), padded head size, bytes per element.

`choose` is the only way to a tile size: the launchers and the compile report (`multipole-lab kernels`) both
ask it, so what the report proves is what runs. There is no autotuning at run time. The rows are those of
`tile_table` or added by a kernel file with `add_rows`, most demanding first; the first that fits is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from .tile_table import HEADS, TILES, WIDTHS


@dataclass(frozen=True)
class Target:
    """A CUDA compute capability (for example 90) and the KB of shared memory that a program may use."""

    capability: int
    shared_kb: int


@dataclass(frozen=True)
class Tile:
    """rows: the edge that a program keeps; cols: the edge that it walks over in steps."""

    rows: int
    cols: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class Row:
    """`tile` is for at least `shared_kb` KB, head sizes up to `head`, elements of up to `width` bytes, and
    compute capabilities from `capability` on."""

    shared_kb: int
    head: int
    width: int
    tile: Tile
    capability: int = 0


def _rows(lines: dict[int | tuple[int, int], tuple]) -> tuple[Row, ...]:
    """The rows of the lines of one kernel; a line is for KB of shared memory, or for (KB, capability)."""
    sizes = [(head, width) for width in WIDTHS for head in HEADS]
    rows = []
    for key, line in lines.items():
        shared_kb, capability = key if isinstance(key, tuple) else (key, 0)
        for size, tile in zip(sizes, line, strict=True):
            rows.append(Row(shared_kb, *size, Tile(*tile), capability))
    return tuple(sorted(rows, key=lambda row: (-row.capability, -row.shared_kb, row.width, row.head)))


_TABLE = {kernel: _rows(lines) for kernel, lines in TILES.items()}


def add_rows(kernel: str, *rows: Row) -> None:
    """Add the table of one kernel; the last row should fit everything (0 KB, head 256, 4 bytes)."""
    _TABLE[kernel] = rows


def choose(kernel: str, target: Target, head: int, width: int, override: Tile | None = None) -> Tile:
    """The tile of `kernel` for a target, a padded head size and a dtype's bytes."""
    if override is not None:
        return override
    for row in _TABLE[kernel]:
        fits = target.shared_kb >= row.shared_kb and target.capability >= row.capability
        if fits and head <= row.head and width <= row.width:
            return row.tile
    raise ValueError(f"no tile of {kernel} for {target}, head size {head}, {width} bytes")


def kernels() -> tuple[str, ...]:
    """The names of all kernels in the table."""
    return tuple(_TABLE)
