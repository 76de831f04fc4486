"""Work that does not depend on each other: branches of a CUDA graph where one is captured, in turn elsewhere.

Small kernels leave most of a GPU idle. In a graph branches run beside each other at no cost to the host; outside, where
the host's launches are what takes time, streams would only add to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def in_branches(calls: Sequence[Callable[[], object]]) -> list:
    """Return the result of every call. Whatever follows on the current stream waits for all of them."""
    if len(calls) < 2 or not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return [call() for call in calls]
    here = torch.cuda.current_stream()
    first, *others = calls
    results = [None] * len(calls)
    streams = [torch.cuda.Stream() for _ in others]
    for i, (call, stream) in enumerate(zip(others, streams, strict=True), 1):
        # Each begins after all work so far, so memory that it gets again is no longer read.
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results[i] = call()
    results[0] = first()
    for stream in streams:
        here.wait_stream(stream)
    return results
