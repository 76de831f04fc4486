"""The settings of a clustered cache, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from multipole_lab.attention.calls.backend import check_backend
from multipole_lab.clustering.checks import check_cap, check_count
from multipole_lab.printing import changed
from multipole_lab.suggesting import check_choice

# Below this many centroids a lookup costs less than what pruning it would lose.
LEAST_LOOKUPS = 256


@dataclass(frozen=True)
class Settings:
    """The parameters of ``MultipoleCache``; see there for their meaning.

    Raises
    ------
    ValueError, TypeError : for a value outside what the fields allow.
    """

    fraction: float = 1 / 16
    outliers: float = 0.0
    sketch: bool | None = False
    budget: int | float | None = 128
    top_p: float | None = None
    levels: int = 2
    branch: int = 4
    lookups: float = 0.15
    sinks: int = 10
    recent: int = 128
    interval: int = 256
    block: int = 4096
    iterations: int = 10
    cap: float | None = 4.0
    replacement: bool = True
    spread: float = 0.8
    watch: int = 16
    balance: bool = True
    rope: Literal["rotated", "windowed"] = "rotated"
    rope_offset: int = 2048
    seed: int = 0
    dense_until: int | None = None
    backend: Literal["auto", "torch", "triton"] = "auto"

    __repr__ = changed

    def __post_init__(self) -> None:
        _check_share("fraction", self.fraction)
        _check_share("lookups", self.lookups)
        _check_share("outliers", self.outliers, open_at_0=False)
        if self.top_p is not None:
            _check_share("top_p", self.top_p)
        if self.budget is None:
            if self.top_p is None:
                raise ValueError("budget and top_p are both None; one of them must limit the exact keys")
        elif isinstance(self.budget, float):
            _check_share("budget", self.budget)
        elif isinstance(self.budget, bool) or not isinstance(self.budget, int):
            raise TypeError(
                f"budget is {self.budget!r}; a number of keys is needed (128), or a share of the context (0.05)"
            )
        else:
            check_count("budget", self.budget, 0)
        if self.levels not in (1, 2):
            raise ValueError(f"levels is {self.levels!r}; 1 or 2 is allowed")
        for name, least in {
            "branch": 2, "sinks": 0, "recent": 1, "interval": 1, "block": 16, "iterations": 0,
            "rope_offset": 0, "watch": 0, "seed": 0,
        }.items():  # fmt: skip
            check_count(name, getattr(self, name), least)
        if self.dense_until is not None:
            check_count("dense_until", self.dense_until, 0)
        check_cap(self.cap)
        if not (self.sketch is None or isinstance(self.sketch, bool)):
            raise TypeError(f"sketch is {self.sketch!r}; True, False or None is needed")
        if not isinstance(self.balance, bool):
            raise TypeError(f"balance is {self.balance!r}; True or False is needed")
        _check_share("spread", self.spread, open_at_0=False)
        check_choice("rope", self.rope, ("rotated", "windowed"))
        check_backend(self.backend)

    @property
    def shares(self) -> bool:
        """Whether heads share the budget: only an error of replacement, of second order, can be foreseen."""
        return self.balance and self.replacement and self.spread > 0

    def tokens(self, length: int) -> int:
        """The budget in keys, for a context of ``length`` keys."""
        if self.budget is None:
            return length
        if isinstance(self.budget, float):
            return math.ceil(self.budget * length)
        return min(self.budget, length)

    def compression_ratio(self, length: int, centroids: bool = False) -> float:
        """The share of a context's keys that a step leaves out: what kvpress's tables call by this name.

        Left in are the budget, the sinks, and the last keys, of which half an interval waits for its cluster on
        average. Nothing is evicted, so this compares what is read and not what is held.

        Parameters
        ----------
        length : keys of the context.
        centroids : count the centroids that a step reads like keys; presses that evict have none. Sketches, a sixteenth
            of a key and its value each, are not counted.
        """
        exact = min(length, self.sinks + self.recent + self.interval // 2)
        budget = min(self.tokens(length), length - exact)
        read = exact + budget
        if centroids:
            fine = sum(self.clusters(length - exact))
            read += fine if self.levels == 1 else math.ceil(fine / self.branch) + self.looked_at(fine, budget)
        return max(0.0, 1 - read / length)

    def clusters(self, keys: int) -> tuple[int, int]:
        """How many clusters so many keys get by k-means, and how many of one outlier each."""
        return math.ceil(keys * self.fraction), int(keys * self.outliers)

    def looked_at(self, clusters: int, budget: int) -> int:
        """How many fine clusters a step looks at: their share, but enough to fill the budget, and not too few."""
        enough = sum(self.clusters(2 * budget))
        return min(clusters, max(math.ceil(self.lookups * clusters), enough, LEAST_LOOKUPS))


def _check_share(name: str, value: object, open_at_0: bool = True) -> None:
    allowed = "(0, 1]" if open_at_0 else "[0, 1]"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; a number in {allowed} is needed")
    if not 0 <= value <= 1 or (open_at_0 and value == 0):
        raise ValueError(f"{name} is {value}; a number in {allowed} is needed")
