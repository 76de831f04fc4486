"""Clocks that a training loop does not notice: wall time on a CPU, events on a GPU, read when they have passed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Stopwatch:
    """Sums the time between ``start`` and ``stop``.

    On a GPU both leave an event in the stream and nobody waits: the host runs ahead as it would without. Read with
    ``take`` where the host waits for the device anyway, as after reading a loss.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.cuda = torch.device(device).type == "cuda"
        self._pending: list[tuple] = []
        self._ms = 0.0

    def now(self) -> object:
        """A point in time, for ``add``."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def add(self, start: object, end: object) -> None:
        """Count what lies between two points."""
        if self.cuda:
            self._pending.append((start, end))
        else:
            self._ms += (end - start) * 1e3

    def take(self) -> float:
        """Milliseconds since the last ``take``; waits for the last event of a GPU."""
        if self._pending:
            self._pending[-1][1].synchronize()
            self._ms += sum(start.elapsed_time(end) for start, end in self._pending)
            self._pending.clear()
        ms, self._ms = self._ms, 0.0
        return ms


class AttentionClock:
    """The time that a model in training spends in its attention functions, forward and backward, by layer.

    Projections and rotation are not attention and are not counted. The backward of a layer lasts from the moment the
    gradient of its output is there to the moment those of query, key and value are.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = device
        self.layers: dict[int, Stopwatch] = {}

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[AttentionClock]:
        """Time the attention of a transformers model inside the block; evaluation is not counted."""
        from multipole_lab.interface.functions import hooked, inner_model

        with hooked(inner_model(model), self._timed):
            yield self

    def _timed(self, former, module, query: Tensor, key: Tensor, value: Tensor, mask, **kwargs):
        if not module.training:
            return former(module, query, key, value, mask, **kwargs)
        watch = self.layers.setdefault(module.layer_idx, Stopwatch(self.device))
        backward: list[object] = []  # when the backward began
        query, key, value = _Passed.apply(lambda: watch.add(backward.pop(), watch.now()), query, key, value)
        start = watch.now()
        out, weights = former(module, query, key, value, mask, **kwargs)
        watch.add(start, watch.now())
        (out,) = _Passed.apply(lambda: backward.append(watch.now()), out)
        return out, weights

    def take(self) -> dict[int, float]:
        """Milliseconds by layer since the last ``take``."""
        return {layer: watch.take() for layer, watch in sorted(self.layers.items())}


class _Passed(torch.autograd.Function):
    """Tensors as they are; ``called`` runs when their gradients pass."""

    @staticmethod
    def forward(ctx, called, *tensors):
        ctx.called = called
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx, *grads):
        ctx.called()
        return None, *grads
