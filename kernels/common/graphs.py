"""CUDA graphs: how one is captured, and its branches for work that does not depend on each other.

Small kernels leave most of a GPU idle. In a graph branches run beside each other at no cost to the host; outside, where
the host's launches are what takes time, streams would only add to it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")

_marked: ContextVar[list[torch.cuda.Event] | None] = ContextVar("moments", default=None)


def captured(
    call: Callable[[], T], aside: torch.cuda.Stream, pool: tuple[int, int] | None = None
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture a call on the current device, and return the graph and what the call returned, which a replay writes.

    aside : a stream for the capture, which follows the current one. pool : of a graph that still is, to share its
    memory; None for memory of its own. Other threads may use the device meanwhile.

    Raises
    ------
    RuntimeError : the call waits for the device, or does something else that a graph cannot hold.
    """
    graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    aside.wait_stream(now)
    collecting = gc.isenabled()
    gc.disable()  # a graph that is given back during a capture ends it
    try:
        with torch.cuda.stream(aside):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                result = call()
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    now.wait_stream(aside)
    return graph, result


def beside(call: Callable[[], T], urgent: bool = False) -> Callable[[], T]:
    """Start a call beside all that follows on the current stream. What is returned waits for it and gives its result.

    urgent : programs of this call go first where one of another branch ends: for short ones that others wait for.

    A result must live until all branches have been waited for: its memory belongs to the branch's stream, which knows
    nothing of those who read it elsewhere.
    """
    if not _capturing():
        result = call()
        return lambda: result
    here = torch.cuda.current_stream()
    stream = torch.cuda.Stream(priority=-1 if urgent else here.priority)
    # It begins after all work so far, so memory that it gets again is no longer read.
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = call()

    def wait() -> T:
        torch.cuda.current_stream().wait_stream(stream)
        return result

    return wait


def in_branches(calls: Sequence[Callable[[], object]]) -> list:
    """Return the result of every call. Whatever follows on the current stream waits for all of them."""
    first, *others = calls
    waits = [beside(call) for call in others]
    result = first()
    return [result, *(wait() for wait in waits)]


@contextmanager
def moments() -> Iterator[list[torch.cuda.Event]]:
    """The moments that `moment` marks within this context, in the order in which the host comes to them."""
    token = _marked.set([])
    try:
        yield _marked.get()
    finally:
        _marked.reset(token)


def moment() -> None:
    """Mark a moment of the work that is captured here: what fills a device may begin, for few programs follow."""
    marked = _marked.get()
    if marked is not None and _capturing():
        marked.append(torch.cuda.Event())
        marked[-1].record()


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
