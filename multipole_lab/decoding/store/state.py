"""What a clustered cache hands to one decoding step: storage and levels, as plain tensors.

This is the layout that a kernel may rely on. R = B * Hk rows, one key/value head each.

Storage. ``State.keys [B, Hk, capacity, D]`` and ``State.values [B, Hk, capacity, Dv]`` are contiguous
buffers, of which the first ``length`` positions are in use::

    0 .. sinks | sinks .. clustered                         | clustered .. length
    sinks      | blocks; in a block, keys sorted by cluster | tail: the recent window and what has not
    (exact)    | and padding (no cluster) behind them       | joined yet, in the order of the text (exact)

Levels. ``State.levels[0]`` are the clusters of keys, ``levels[1]`` (if there) the clusters of those clusters.
The first ``size`` entries of a level are in use; its buffers are contiguous and may be longer.

- ``keys``, ``values``: the means of all keys and values under a cluster, in the cache's dtype;
- ``tokens`` int32: how many keys those are (0 for an empty cluster: it has no mass and no members);
- ``first``, ``members`` int32: its members are ``first .. first + members`` of the level below, for level 0
  of the storage. So members are contiguous at every level, and for level 0 ``members == tokens``. The members of
  a later cluster come later.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.decoding.store.sketch import Sketch
from multipole_lab.printing import one_line


class Level(NamedTuple):
    """One level of clusters; see the module."""

    keys: Float[Tensor, "B Hk stored D"]
    values: Float[Tensor, "B Hk stored Dv"]
    tokens: Int[Tensor, "B Hk stored"]
    first: Int[Tensor, "B Hk stored"]
    members: Int[Tensor, "B Hk stored"]
    size: int

    __repr__ = one_line

    def rows(self) -> Level:
        """The same with one row per key/value head, [R, stored, ...]; no copy."""
        return Level(*(x.flatten(0, 1) for x in self[:-1]), self.size)


class State(NamedTuple):
    """What one layer's cache holds; see the module.

    ``sketch`` is None, or says more of every clustered key than its mean (``sketch.py``), by place in the storage.
    ``valid`` is None, or says which of the sinks and of the tail count (False for padding). ``spreads`` is empty,
    or holds for every level half the variance of the keys under each cluster (mean over coordinates, shrunk).
    """

    keys: Float[Tensor, "B Hk capacity D"]
    values: Float[Tensor, "B Hk capacity Dv"]
    levels: tuple[Level, ...]
    sinks: int
    clustered: int
    length: int
    valid: Bool[Tensor, "B exact"] | None = None
    spreads: tuple[Float[Tensor, "B Hk stored"], ...] = ()
    sketch: Sketch | None = None

    __repr__ = one_line
