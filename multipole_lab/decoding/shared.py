"""What the layers of one cache have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from multipole_lab.decoding.balance import Portion, allot
from multipole_lab.decoding.trace import Trace
from multipole_lab.kernels.decode_work import Work


@dataclass
class Shared:
    """What the layers of one cache share, for they take their steps one after the other.

    Attributes
    ----------
    works : buffers of a step, one set a device.
    trace : where steps are recorded, while they are.
    layers : all layers of the cache, for their numbers.
    portions : what each layer has of the budget, as far as it was told in this round of layers.
    """

    works: dict[torch.device, Work] = field(default_factory=dict)
    trace: Trace | None = None
    layers: list = field(default_factory=list)
    portions: list[Portion] = field(default_factory=list)

    def work(self, device: torch.device) -> Work:
        """The buffers on one device."""
        return self.works.setdefault(device, Work())

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(work.nbytes for work in self.works.values())

    def told(self, portion: Portion) -> None:
        """A layer has noted an expected error; when its turn comes again, all have, and the budget is shared anew."""
        if any(one is portion for one in self.portions):
            allot(self.portions)
            self.portions.clear()
        self.portions.append(portion)

    def traces(self, layer: object) -> int | None:
        """The number of a layer whose steps are recorded; None for others."""
        if self.trace is None:
            return None
        number = next((i for i, one in enumerate(self.layers) if one is layer), 0)
        return number if self.trace.wants(number) else None
