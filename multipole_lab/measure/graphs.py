"""CUDA graphs for timing: the host records the launches once and takes no part in the time."""

from __future__ import annotations

from collections.abc import Callable

import torch


def as_graph(call: Callable[[], object], warmup: int = 2) -> Callable[[], object]:
    """The call as a CUDA graph, captured after runs that compile what it needs.

    Raises
    ------
    RuntimeError : the call waits for the device, or does anything else that a graph cannot hold.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warmup):
            call()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        call()
    return captured.replay
