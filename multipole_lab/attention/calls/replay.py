"""Calls that repeat, as CUDA graphs: the host starts one graph where it would start fifty kernels.

The first call of a shape runs as it is written. The second is captured, with inputs and outputs of its own; from then
on a call copies its inputs in, replays the graph and returns copies of what came out, so that no result is ever written
to again. What must not be captured is left alone: a call in a capture of the caller's, under ``torch.compile``, or in
`without_graphs`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from multipole_lab.attention.calls.transforms import transformed
from multipole_lab.suggesting import suggesting

Function = Callable[..., tuple[Tensor, ...]]

VARIABLE = "MULTIPOLE_LAB_GRAPHS"
# Shapes whose calls are counted: those of a text that grows never come twice, and are forgotten.
SHAPES = 256
# The part of a device's memory that all graphs may hold together.
SHARE = 1 / 16

_allowed: ContextVar[bool] = ContextVar("graphs_allowed", default=True)


@suggesting
@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Within this context every call starts its kernels one by one, as ``MULTIPOLE_LAB_GRAPHS=0`` does for a process.

    The results are the same. Graphs hold memory: inputs, outputs and what lies between for every shape that repeats, at
    most a sixteenth of the device's.
    """
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


@dataclass
class Captured:
    """A call of one shape: what is copied in, what comes out, and the event after which both may be written again."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]
    done: torch.cuda.Event
    bytes: int

    @classmethod
    def of(cls, function: Function, tensors: tuple[Tensor, ...]) -> Captured:
        """Capture the function.

        Raises
        ------
        RuntimeError : it waits for the device, or does something else that a graph cannot hold.
        """
        from multipole_lab.kernels.common.graphs import captured  # only kernels are captured

        device = tensors[0].device
        before = torch.cuda.memory_reserved(device)
        # Ordinary tensors, which may be written in and outside inference mode alike.
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
            inputs = [torch.empty_like(x).copy_(x) for x in tensors]
            graph, outputs = captured(lambda: tuple(function(*inputs)), torch.cuda.Stream())
        held = sum(x.numel() * x.element_size() for x in inputs)
        grown = max(0, torch.cuda.memory_reserved(device) - before)
        return cls(graph, inputs, outputs, torch.cuda.Event(), held + grown)

    def __call__(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Replay with these inputs."""
        here = torch.cuda.current_stream(tensors[0].device)
        here.wait_event(self.done)  # another stream may still read what the last call wrote
        with torch.no_grad():
            for own, given in zip(self.inputs, tensors, strict=True):  # one by one, as fast as memory is
                own.copy_(given)
            self.graph.replay()
            results = tuple(x.clone() for x in self.outputs)
        self.done.record(here)
        return results


class Replays:
    """The graphs of a process: the least recently used go where all together would hold too much.

    capture : makes a `Captured` of a function and its tensors; another one in tests.
    """

    def __init__(self, capture: Callable[[Function, tuple[Tensor, ...]], Captured] = Captured.of) -> None:
        self.capture = capture
        self.graphs: OrderedDict[Hashable, Captured] = OrderedDict()
        self.seen: OrderedDict[Hashable, bool] = OrderedDict()  # whether a graph may be made of it
        self.lock = threading.Lock()

    def __call__(self, name: Hashable, function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
        """``function(*tensors)``: no derivative, no value of a tensor looked at.

        name : what else the results depend on; equal names of one shape are one graph.
        """
        if not self.may_replay(tensors):
            return function(*tensors)
        tensors = tuple(x.detach() for x in tensors)
        equal = torch.are_deterministic_algorithms_enabled()  # which kernels are captured may depend on it
        key = (name, equal), tensors[0].device, tuple((x.shape, x.dtype) for x in tensors)
        with self.lock:
            if (graph := self.graphs.get(key)) is not None:
                self.graphs.move_to_end(key)
                return graph(tensors)
            again, possible = key in self.seen, self.seen.get(key, True)
            self.seen[key] = possible
            self.seen.move_to_end(key)
            if len(self.seen) > SHAPES:
                self.seen.popitem(last=False)
            if again and possible and self.fits(tensors):
                try:
                    graph = self.capture(function, tensors)
                except RuntimeError:  # it stays with kernels started one by one
                    self.seen[key] = False
                else:
                    self.keep(key, graph, tensors[0].device)
                    return graph(tensors)
        return function(*tensors)

    def may_replay(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether a graph may stand for a call with these tensors here."""
        return (
            all(x.is_cuda for x in tensors)
            and not transformed()  # a graph knows no tangents
            and _allowed.get()
            and os.environ.get(VARIABLE) != "0"
            and not torch.compiler.is_compiling()
            and not torch.cuda.is_current_stream_capturing()
        )

    @staticmethod
    def room(device: torch.device) -> float:
        """Bytes that the graphs of a device may hold."""
        return SHARE * torch.cuda.get_device_properties(device).total_memory

    def fits(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether a graph of these inputs is likely to find room: what lies between takes about as much."""
        return 3 * sum(x.numel() * x.element_size() for x in tensors) <= self.room(tensors[0].device)

    def keep(self, key: Hashable, graph: Captured, device: torch.device) -> None:
        """Keep a graph, and give back the oldest ones that there is no room for."""
        self.graphs[key] = graph
        held = sum(g.bytes for (_, on, _), g in self.graphs.items() if on == device)
        for old in [k for k in self.graphs if k[1] == device and k != key]:
            if held <= self.room(device):
                break
            gone = self.graphs.pop(old)
            gone.done.synchronize()  # its memory may be somebody else's next
            held -= gone.bytes


replayed = Replays()


def repeating(x: Tensor) -> Function:
    """What runs computations of tensors like x: as graphs where they may be, else as they are.

    Decided where a call begins: its backward runs in a thread of its own, which knows nothing of `without_graphs`.
    """
    from multipole_lab.kernels.common.derivatives import run_now

    return replayed if replayed.may_replay((x,)) else run_now
