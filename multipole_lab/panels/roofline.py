"""The roofline panel: what bounds each kernel on a device, and how that moves with the problem."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np

from multipole_lab.bench.kernels.work import DEVICES, Device, kernel_work, measure_device, recorded
from multipole_lab.figures import roofline as draw
from multipole_lab.suggesting import suggesting

from .common import controls
from .common.base import Panel, Picture

_HERE = "this machine"


class RooflinePanel(Panel):
    """Kernels under the roof of a device: published peaks for GPUs, measured ones for this machine."""

    main = "device", "tokens", "clusters", "near"

    def __init__(self) -> None:
        self._here: Device | None = None
        self._recorded = list(recorded())
        device = widgets.Dropdown(
            options=[*(device.name for device in DEVICES), _HERE],
            value="H100",
            description="device",
            tooltip="Whose peaks make the roof; this machine's are measured when it is first chosen",
        )
        moves = {
            "device": device,
            "tokens": controls.powers("tokens", "How many queries and keys", 512, 1 << 17, 8192),
            "clusters": controls.clusters(),
            "near": controls.near(),
            "head": controls.powers("head size", "How many numbers a query has", 16, 256, 64),
        }
        super().__init__("roofline", moves)

    def compute(self, device, **problem) -> Iterator[Picture]:
        """Count the work of every kernel by its formula and put it under the roof."""
        try:
            work = kernel_work(**problem)
        except ImportError as error:
            raise ValueError(
                f"The formulas stand beside the Triton kernels, and triton is missing: {error}"
            ) from None
        peak = self._peak(device)
        moved, operations = (
            np.array([getattr(one, part) for one in work]) for part in ("moved", "operations")
        )
        # What was recorded on another device says nothing under this one's roof.
        known = [one for one in self._recorded if peak.name.split()[0] in one.device.split()]
        names = [one.name for one in work]
        figure = draw(
            names, moved, operations, peak.tflops, peak.gbps, peak.name, peak.source,
            recorded_names=[one.work.name for one in known],
            recorded_intensity=np.array([one.work.operations / one.work.moved for one in known]),
            recorded_tflops=np.array([one.work.operations / one.seconds / 1e12 for one in known]),
            recorded="; ".join(dict.fromkeys(one.words for one in known)),
        )  # fmt: skip
        ms = np.array([one.seconds(peak) for one in work]) * 1e3
        yield Picture(figure, {"kernel": names, "bytes": moved, "operations": operations, "least_ms": ms})

    def _peak(self, name: str) -> Device:
        """Return the device of that name; this machine is measured once."""
        if name != _HERE:
            return next(device for device in DEVICES if device.name == name)
        self._here = self._here or measure_device()
        return self._here


@suggesting
def roofline() -> RooflinePanel:
    """Show what bounds the kernels, on published peaks or on this machine's. Needs no sample and no GPU."""
    return RooflinePanel()
