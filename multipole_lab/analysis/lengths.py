"""Time and error against context length: exact and approximate attention, turn by turn, on this machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from multipole_lab.analysis.heads import first_tokens
from multipole_lab.attention.exact import Exact


@dataclass(frozen=True)
class Pace:
    """One length measured: tokens, median milliseconds of both sides, relative squared error."""

    length: int
    exact_ms: float
    approx_ms: float
    rse: float


@torch.inference_mode()
def time_lengths(
    layer, lengths: Sequence[int], method, scale: float | None = None, seconds: float = 1.0
) -> Iterator[Pace]:
    """Yield one :class:`Pace` for each length, as soon as it is measured.

    Exact and approximate calls alternate, so that whatever else the machine does falls on both alike; the
    first pair warms up and is not counted. Times include the clustering.

    Parameters
    ----------
    layer : q [1, Hq, N, D], k [1, Hk, N, D], v [1, Hk, N, Dv].
    lengths : the context lengths; each takes the first so many tokens.
    method : called as ``method(q, k, v, scale=...)``.
    scale : the factor on the logits.
    seconds : go on repeating a length for about so long, two to eleven times.
    """
    exact = Exact()
    for length in lengths:
        q, k, v = first_tokens(layer, length)
        times: tuple[list[float], list[float]] = ([], [])
        outputs = [None, None]
        begin = time.perf_counter()
        while len(times[0]) < 3 or (time.perf_counter() - begin < seconds and len(times[0]) < 12):
            for side, attend in enumerate((exact, method)):
                start = time.perf_counter()
                outputs[side] = attend(q, k, v, scale=scale)
                times[side].append((time.perf_counter() - start) * 1000)
        error = (outputs[1] - outputs[0]).square().sum((0, 2, 3)) / outputs[0].square().sum((0, 2, 3))
        yield Pace(length, *(statistics.median(side[1:]) for side in times), float(error.mean()))


def machine_name() -> str:
    """Name the processor that torch computes on here, in words: "Intel Xeon ... (2 threads)"."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        name = models[0] if models else name
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    return f"{name.replace('(R)', '').replace('(TM)', '')}, {threads} thread{'s' * (threads != 1)}"
