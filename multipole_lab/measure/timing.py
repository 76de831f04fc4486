"""Timing that can be compared: the sides take turns in one process, and medians are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from multipole_lab.clustering.checks import check_count
from multipole_lab.devices import check_device
from multipole_lab.suggesting import suggesting


@suggesting
def interleaved(
    sides: Mapping[str, Callable[[], object]],
    repeats: int = 5,
    warmup: int = 1,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Median milliseconds of every side, run in turns A B A B ...

    Parameters
    ----------
    sides : name to a call without arguments.
    repeats : measured turns, at least 1.
    warmup : unmeasured turns before them.
    device : on "cuda" times are taken with CUDA events, elsewhere with the wall clock.
    progress : called as ``progress(done, total)`` after every call.

    Raises
    ------
    ValueError, TypeError : no sides, or such as are no calls; repeats below 1, warmup below 0; what is no device.
    """
    if not isinstance(sides, Mapping):
        raise TypeError(f"sides is a {type(sides).__name__}; names with calls are needed")
    if not sides:
        raise ValueError("sides is empty; at least one is needed")
    for name, call in sides.items():
        if not callable(call):
            raise TypeError(f"sides[{name!r}] is {call!r}; a call without arguments is needed")
    check_count("repeats", repeats, 1)
    check_count("warmup", warmup, 0)
    check_device(device)
    clock = _cuda_ms if torch.device(device).type == "cuda" else _wall_ms
    times: dict[str, list[float]] = {name: [] for name in sides}
    total = (warmup + repeats) * len(sides)
    done = 0
    for turn in range(warmup + repeats):
        for name, call in sides.items():
            elapsed = clock(call)
            if turn >= warmup:
                times[name].append(elapsed)
            done += 1
            if progress is not None:
                progress(done, total)
    return {name: statistics.median(values) for name, values in times.items()}


def _wall_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cuda_ms(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
