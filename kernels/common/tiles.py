"""Tile sizes: one table, keyed by kernel, shared memory (and capability), padded head size, bytes per element.

`choose` is the only way to a tile size: the launchers and the compile report (`multipole-lab kernels`) both
ask it, so what the report proves is what runs. There is no autotuning at run time. The rows are those of
`tile_table`, most demanding first; the first that fits is taken.
"""

from __future__ import annotations

from .tile_table import TABLE
from .tile_table.entry import Row, Target, Tile

__all__ = ["Row", "Target", "Tile", "choose", "find", "kernels"]


def choose(kernel: str, target: Target, head: int, width: int, override: Tile | None = None) -> Tile:
    """The tile of `kernel` for a target, a padded head size and a dtype's bytes."""
    return find(kernel, target, head, width).tile if override is None else override


def find(kernel: str, target: Target, head: int, width: int) -> Row:
    """The row of the table that `choose` takes the tile from; it says whether the tile was measured."""
    for row in TABLE[kernel]:
        fits = target.shared_kb >= row.shared_kb and target.capability >= row.capability
        if fits and head <= row.head and width <= row.width:
            return row
    raise ValueError(f"no tile of {kernel} for {target}, head size {head}, {width} bytes")


def kernels() -> tuple[str, ...]:
    """The names of all kernels in the table."""
    return tuple(TABLE)
