"""A step of training as lanes: when a process computes, when messages travel, when its host is at work."""

from __future__ import annotations

from collections.abc import Iterable

import torch

STEP = "multipole_lab step"  # what the profiler is told where a step begins and ends
# A picture of a step is some hundred pixels wide: shorter pauses are closed, so that a record stays small.
RESOLUTION = 1 / 2000
WARM = 5  # steps that go before a profile
MESSAGES = ("gloo:", "nccl", "mpi:")

Intervals = list[list[float]]


def lanes(events: Iterable) -> dict[str, Intervals]:
    """What the last step that the profiler saw was made of.

    Parameters
    ----------
    events : of ``torch.profiler.profile``, in which every step stands in a ``record_function(STEP)``.

    Returns
    -------
    Beginnings and ends in milliseconds from the step's own beginning, in order and apart. "step" is the step itself.
    "messages" are those of gloo, or the kernels of NCCL; "compute" the other kernels of a GPU and "host" the
    operations that start them. Without a GPU the operations themselves are "compute", and there is no "host": what is
    in no lane is Python.
    """
    events = list(events)
    step = [e for e in events if e.name == STEP and not _on_gpu(e)][-1].time_range
    parts: dict[str, list[tuple[float, float]]] = {"compute": [], "messages": [], "host": []}
    gpu = any(_on_gpu(e) for e in events)
    for e in events:
        if lane := _lane(e, gpu):
            parts[lane].append((e.time_range.start, e.time_range.end))
    length = step.end - step.start
    whole = {"step": [[0.0, length / 1e3]]}
    for lane, found in parts.items():
        inside = [(max(a, step.start), min(b, step.end)) for a, b in found]
        joined = union([(a, b) for a, b in inside if a < b], length * RESOLUTION)
        if joined:
            whole[lane] = [[(a - step.start) / 1e3, (b - step.start) / 1e3] for a, b in joined]
    return whole


def union(intervals: Iterable[tuple[float, float]], pause: float) -> Intervals:
    """Intervals in order, those joined that overlap or lie at most ``pause`` apart."""
    joined: Intervals = []
    for begin, end in sorted(intervals):
        if joined and begin - joined[-1][1] <= pause:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    return joined


def _on_gpu(event) -> bool:
    return event.device_type != torch.autograd.DeviceType.CPU


def _lane(event, gpu: bool) -> str | None:
    """Which lane an event is in; None for what is only a name around others."""
    if event.name.startswith(MESSAGES):
        # On a GPU gloo's or NCCL's own kernels are the message, and the host's call of the same name is not.
        return "messages" if _on_gpu(event) == gpu else None
    if event.is_user_annotation:
        return None
    if _on_gpu(event):
        return "compute"
    if event.name.startswith("aten::"):
        return "host" if gpu else "compute"
    return None
