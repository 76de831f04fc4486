"""The blocks of causal attention as rectangles, and lines around them."""

from __future__ import annotations

from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]


def rectangles(tokens: int, leaf: int, levels: int) -> list[Rectangle]:
    """Every block that is in the sequence as (left, top, right, bottom) in tokens: the leaves, then level by level.

    A level's blocks are twice as wide as those before; ``leaf`` is the size of a block on the diagonal.
    """
    blocks: list[Rectangle] = [(first, first, first + leaf, first + leaf) for first in range(0, tokens, leaf)]
    for size in (leaf << level for level in range(levels)):
        blocks += [(first - size, first, first, first + size) for first in range(size, tokens, 2 * size)]
    return blocks


def around(blocks: Sequence[Rectangle]) -> dict[str, list[float | None]]:
    """The x and y of one line that goes around each of the rectangles."""
    x: list[float | None] = []
    y: list[float | None] = []
    for left, top, right, bottom in blocks:
        x += [left, right, right, left, left, None]
        y += [top, top, bottom, bottom, top, None]
    return {"x": x, "y": y}
