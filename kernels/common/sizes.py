"""Sizes of tiles and grids: what covers so many elements, and how work is divided among programs."""

from __future__ import annotations

# About two programs for each multiprocessor of a large device.
PROGRAMS = 256


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
