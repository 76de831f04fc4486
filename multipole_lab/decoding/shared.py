"""What the layers of one cache have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from multipole_lab.decoding.step.balance import Portion, allot
from multipole_lab.decoding.step.trace import Trace
from multipole_lab.kernels.decode.work import Work


@dataclass
class Shared:
    """What the layers of one cache share, for they take their steps one after the other.

    Attributes
    ----------
    works : buffers of a step, one set a device.
    trace : where steps are recorded, while they are.
    layers : all layers of the cache, for their numbers.
    """

    works: dict[torch.device, Work] = field(default_factory=dict)
    trace: Trace | None = None
    layers: list = field(default_factory=list)

    def work(self, device: torch.device) -> Work:
        """The buffers on one device."""
        return self.works.setdefault(device, Work())

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(work.nbytes for work in self.works.values())

    def share_budget(self, portion: Portion) -> None:
        """A layer has noted an expected error; when the first one comes again, the budget is shared again."""
        portions = [one.portion for one in self.layers if hasattr(one, "portion")]
        portions = [one for one in portions if one.need is not None]
        if portion is portions[0] and portion.seen > 1:  # all others have noted the one before
            allot(portions)

    def traces(self, layer: object) -> int | None:
        """The number of a layer whose steps are recorded; None for others."""
        if self.trace is None:
            return None
        number = next((i for i, one in enumerate(self.layers) if one is layer), 0)
        return number if self.trace.wants(number) else None
