"""What the layers of one cache have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from multipole_lab.decoding.record import Record
from multipole_lab.decoding.step.balance import Largest, Portion, allot
from multipole_lab.decoding.step.trace import Seen, Trace
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.padding import Masks
from multipole_lab.extras import is_there

if TYPE_CHECKING:
    from multipole_lab.decoding.layer import ClusteredLayer
    from multipole_lab.kernels.decode.work import Work


@dataclass
class Shared:
    """What the layers of one cache share, for they take their steps one after the other.

    Attributes
    ----------
    works : buffers of a step, one set a device.
    trace : where steps are recorded, while they are.
    layers : all layers of the cache, for their numbers.
    masks : what the masks of the step say.
    largest : of the shares of the budget that come next.
    record : when they did what.
    joined : the length of the text at which layers joined last, and how many did.
    asked, masking : whether somebody asked if the cache can be compiled, and whether a model makes masks without that
        question; until keys come.
    """

    works: dict[torch.device, Work | None] = field(default_factory=dict)
    trace: Trace | None = None
    layers: list = field(default_factory=list)
    masks: Masks = field(default_factory=Masks)
    largest: Largest | None = None
    record: Record = field(default_factory=Record)
    joined: tuple[int, int] = (0, 0)
    asked: bool = False
    masking: bool = False

    def work(self, device: torch.device) -> Work | None:
        """The buffers on one device; None where there are no kernels, and every step has buffers of its own."""
        if device not in self.works and is_there("triton"):
            from multipole_lab.kernels.decode.work import Work

            self.works[device] = Work()
        return self.works.setdefault(device, None)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(work.nbytes for work in self.works.values() if work is not None)

    def share_budget(self, portion: Portion) -> None:
        """A layer has noted an expected error; when the first one comes again, the budget is shared again."""
        portions = [one.portion for one in self.layers if hasattr(one, "portion")]
        portions = [one for one in portions if one.need is not None]
        if portion is portions[0] and portion.seen > 1:  # all others have noted the one before
            if all(one.coming is not None for one in portions):
                largest = self.largest or Largest([one.coming for one in portions])  # None behind a load
                for one, most in zip(portions, largest.read(), strict=True):
                    one.take(most)
            self.largest = allot(portions)

    def may_join(self, h: Hierarchy, prompt: bool) -> bool:
        """Whether a layer's new keys may join clusters in this step.

        Those of a prompt, and where much waits, may at once. Otherwise only as many layers a step as are needed for
        each to have its turn within one interval: so no step is much longer than the others.

        Parameters
        ----------
        h : the storage of the layer. prompt : whether the layer takes its first step behind a prompt.
        """
        if not h.due():
            return False
        if prompt or (h.blocks and h.waiting() >= 2 * h.settings.interval):
            return True
        joined = self.joined[1] if self.joined[0] == h.length else 0
        if joined >= math.ceil(len(self.layers) / h.settings.interval):
            return False
        self.joined = h.length, joined + 1
        return True

    def number(self, layer: ClusteredLayer) -> int:
        """Which of the layers this is."""
        if not (layer.number < len(self.layers) and self.layers[layer.number] is layer):
            layer.number = next((i for i, one in enumerate(self.layers) if one is layer), 0)
        return layer.number

    def seen(self, number: int) -> Seen | None:
        """Where the step of a layer is noted, if it is recorded."""
        return Seen() if self.trace is not None and self.trace.wants(number) else None
