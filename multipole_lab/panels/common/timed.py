"""Panels that take times: they know on which device and in which precision, and so does whatever leaves them."""

from __future__ import annotations

import json
import os

from multipole_lab.devices import chosen_device
from multipole_lab.environment import Measured
from multipole_lab.measure.precision import default_dtype

from .sampled import SampledPanel


class TimedPanel(SampledPanel):
    """A panel whose times are of ``device``, in the precision of ``default_dtype``, as ``ml.tune`` takes them.

    Parameters
    ----------
    sample : as for ``SampledPanel``.

    Attributes
    ----------
    device : "cuda" where there is a GPU, otherwise "cpu".
    """

    def __init__(self, sample) -> None:
        self.device = chosen_device(None)
        super().__init__(sample)

    @property
    def measured(self) -> Measured:
        """What belongs to the times: the name of the device, precision, versions, the panel."""
        return Measured.here(self.device, default_dtype(self.device), f"ml.panels.{self.title}")

    @property
    def machine(self) -> str:
        """Device and precision, as the title has them."""
        return self.measured.words

    @property
    def busy(self) -> str:
        """A sentence where other programs keep more processors busy than there are, or an empty string."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of the last minute; not on Windows
        return "This computer is busy: times are too long." if load > 1.5 * (os.cpu_count() or 1) else ""

    def table(self) -> dict[str, list]:
        """Return the numbers behind the figure, as columns by name; the last says where they were measured."""
        columns = super().table()
        rows = max(map(len, columns.values()), default=0)
        return {**columns, "measured_on": [self.machine] * rows}

    def export(self, kind: str) -> tuple[str, str, str]:
        """Return what ``Panel.export`` does; the JSON also has the versions."""
        name, media, text = super().export(kind)
        if kind == "json":
            text = json.dumps({**json.loads(text), "measured": self.measured.facts()}, indent=1)
        return name, media, text
