"""The work of every kernel, by the formulas beside them, and the peaks of devices that bound it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from multipole_lab.renamed import today


@dataclass(frozen=True)
class Device:
    """The peaks of a device: dense fp16 matrix products with fp32 sums, and device memory, as published or measured.

    Attributes
    ----------
    tflops : 10^12 operations a second. gbps : 10^9 bytes a second. source : who says so.
    """

    name: str
    tflops: float
    gbps: float
    source: str


@dataclass(frozen=True)
class Work:
    """What one launch moves (bytes) and does (operations), by the formula in its launcher's docstring."""

    name: str
    moved: float
    operations: float

    def seconds(self, device: Device) -> float:
        """The least time the device's peaks allow."""
        return max(self.moved / device.gbps / 1e9, self.operations / device.tflops / 1e12)


@dataclass(frozen=True)
class Recorded:
    """A time that was measured earlier, elsewhere: never to be shown as this machine's."""

    work: Work
    seconds: float
    device: str
    date: str
    dtype: str = ""

    @property
    def words(self) -> str:
        """Device, precision and day."""
        return ", ".join(filter(None, (self.device, self.dtype, self.date)))


# From the makers' data sheets, without sparsity. A device that is not here can be given as Device(...).
DEVICES = (
    Device("T4", 65, 320, "NVIDIA T4 data sheet"),
    Device("L4", 121, 300, "NVIDIA L4 data sheet"),
    Device("RTX 4090", 165, 1008, "NVIDIA Ada architecture paper"),
    Device("A100 80GB", 312, 2039, "NVIDIA A100 data sheet, SXM"),
    Device("H100", 989, 3350, "NVIDIA H100 data sheet, SXM"),
    Device("H200", 989, 4800, "NVIDIA H200 data sheet, SXM"),
)


def kernel_work(
    tokens: int = 8192, clusters: int = 64, near: int = 4, head: int = 64, heads: tuple[int, int] = (32, 8)
) -> list[Work]:
    """Count the work of every kernel of the report in fp16, and of exact attention beside them.

    Parameters
    ----------
    tokens : queries and keys. head : D. heads : query heads and key/value heads.

    Raises
    ------
    ValueError : clusters above tokens.
    ImportError : triton is not installed; the formulas stand beside the kernels.
    """
    if clusters > tokens:
        raise ValueError(f"clusters: {clusters:,} clusters of {tokens:,} keys; at most {tokens:,} is allowed")
    from multipole_lab.kernels.report.problem import Problem
    from multipole_lab.kernels.report.table import ENTRIES

    problem = Problem(
        query_heads=heads[0], kv_heads=heads[1], queries=tokens, keys=tokens, head=head, clusters=clusters,
        near=near,
    )  # fmt: skip
    found = [Work(entry.name, *map(float, entry.cost(problem))) for entry in ENTRIES]
    moved = 2.0 * sum(heads) * tokens * head * problem.width
    return [*found, Work("exact attention", moved, 4.0 * heads[0] * tokens**2 * head)]


def measure_device() -> Device:
    """Measure this machine: square matrix products in fp32 (fp16 on a GPU), and copies that no cache holds."""
    from multipole_lab.environment import machine
    from multipole_lab.measure.roofline import measure_roofline

    place, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    found = measure_roofline(place, dtype, repeats=5)
    words = f"measured just now: {found.dtype} products and copies"
    return Device(machine(place), found.teraops, found.gigabytes, words)


def recorded(folder: Path | None = None) -> Iterator[Recorded]:
    """Read kernel times from the JSON files of ``data/benchmarks``.

    A file counts if it is ``{"device" (or "machine"), "date", "rows": [...]}``, and a row of it if it has ``kernel``,
    ``ms``, ``bytes`` and ``operations``. Everything else in that folder is somebody else's.
    """
    from multipole_lab.bench.recorded import records

    for path in records(folder=folder):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        rows = record.get("rows", []) if isinstance(record, dict) else []
        device = record.get("device", record.get("machine")) if rows else None
        for row in rows if isinstance(rows, list) and isinstance(device, str) else []:
            if isinstance(row, dict) and {"kernel", "ms", "bytes", "operations"} <= set(row):
                work = Work(today("kernel", row["kernel"]), float(row["bytes"]), float(row["operations"]))
                dtype = row.get("dtype", record.get("dtype", ""))
                yield Recorded(work, row["ms"] / 1e3, device, str(record.get("date", "no date")), dtype)
