"""What a device can do at most, measured: the speed of a copy and of a matrix product."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from multipole_lab.measure.timing import interleaved

# Bytes copied and the edge of the product: far beyond any cache on a GPU, little on a CPU.
SIZES = {"cuda": (1 << 29, 8192), "cpu": (1 << 24, 512)}


@dataclass(frozen=True)
class Roofline:
    """Measured limits: gigabytes a second (read and written), 10^12 operations a second of a matrix product."""

    gigabytes: float
    teraops: float
    dtype: str

    def least_ms(self, moved: float, operations: float) -> float:
        """The fewest milliseconds in which a kernel can move ``moved`` bytes and do ``operations``."""
        return max(moved / self.gigabytes / 1e6, operations / self.teraops / 1e9)

    def share(self, moved: float, operations: float, ms: float) -> float:
        """Which part of the possible speed a kernel of ``ms`` milliseconds reaches."""
        return self.least_ms(moved, operations) / ms

    def row(self) -> dict:
        """As a dictionary, for a record."""
        return asdict(self)


def measure_roofline(device: torch.device | str, dtype: torch.dtype, repeats: int = 20) -> Roofline:
    """Copy and multiply on this device, in turns; medians.

    Products of float32 are torch's own, without tf32 unless that is switched on in torch.
    """
    device = torch.device(device)
    size, edge = SIZES["cuda" if device.type == "cuda" else "cpu"]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(edge, edge, device=device).to(dtype) for _ in "lr")
    out = torch.empty_like(left)
    sides = {"copy": lambda: target.copy_(source), "product": lambda: torch.mm(left, right, out=out)}
    times = interleaved(sides, repeats, warmup=3, device=device)
    name = str(dtype).removeprefix("torch.")
    return Roofline(2 * size / times["copy"] / 1e6, 2 * edge**3 / times["product"] / 1e9, name)


def copy_speed(device: torch.device | str) -> float:
    """Gigabytes a second of a copy, read and write counted."""
    return measure_roofline(device, torch.float32, repeats=5).gigabytes
