"""What several arrays of one figure must have in common."""

from __future__ import annotations

from collections.abc import Sized


def check_equally_many(least: int = 0, **arrays: Sized | None) -> None:
    """Refuse arrays of different lengths, and of fewer than ``least`` numbers, by their names; None is left out."""
    counts = {name: len(one) for name, one in arrays.items() if one is not None}
    if len(set(counts.values())) > 1 or min(counts.values()) < least:
        *names, last = counts
        *numbers, end = map(str, counts.values())
        needed = "equally many, at least one," if least else "equally many"
        raise ValueError(
            f"{', '.join(names)} and {last} have {', '.join(numbers)} and {end} numbers; {needed} are needed"
        )
