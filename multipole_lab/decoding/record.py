"""What a clustered cache has done, in plain words: where the time of a prompt went, and what the last steps cost."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from multipole_lab.decoding.store.short import dense_until
from multipole_lab.printing import count

if TYPE_CHECKING:
    from multipole_lab.decoding.layer import ClusteredLayer

# Steps and joins that are remembered.
LAST = 64


class Mark:
    """A moment: of the host, and of the device's own clock where that is a GPU, which is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self.host, self.event = time.perf_counter(), None
        if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record(torch.cuda.current_stream(device))

    def since(self, other: Mark) -> float:
        """Milliseconds from another moment to this one; a device is waited for here."""
        if self.event is None or other.event is None:
            return 1e3 * (self.host - other.host)
        self.event.synchronize()
        return other.event.elapsed_time(self.event)


class Record:
    """When the layers of one cache did what.

    Attributes
    ----------
    prompt : when the first keys came, and when the first new token asked for attention.
    clustering : beginning and end of what each layer did to cluster the prompt.
    joins : of the last joins behind it.
    steps : when the first layer began each of the last steps.
    handed : whether the model's attention was given handles, with which ``sdpa`` asks for a step; others do not.
    """

    def __init__(self) -> None:
        self.prompt: list[Mark] = []
        self.clustering: list[tuple[Mark, Mark]] = []
        self.joins: deque[tuple[Mark, Mark]] = deque(maxlen=LAST)
        self.steps: deque[Mark] = deque(maxlen=LAST + 1)
        self.handed = False
        self._leader: object = None

    def __deepcopy__(self, _: dict) -> Record:
        return Record()  # a copy has done nothing yet

    def came(self, layer: ClusteredLayer) -> None:
        """The first keys of a text came to a layer; that which gets them first says when a step begins."""
        if self._leader is None:
            self._leader = layer
            self.prompt = [Mark(layer.hierarchy.keys.buffer.device)]

    def began(self, layer: ClusteredLayer) -> None:
        """A layer begins a step."""
        if layer is self._leader:
            self.steps.append(Mark(layer.hierarchy.keys.buffer.device))
            self.prompt[1:] = self.prompt[1:] or [self.steps[-1]]

    @contextmanager
    def joining(self, device: torch.device, first: bool) -> Iterator[None]:
        """While keys join clusters in one layer; ``first`` for those of the prompt."""
        begin = Mark(device)
        yield
        (self.clustering if first else self.joins).append((begin, Mark(device)))


def told(record: Record, layers: Sequence[Any], clustered: Sequence[ClusteredLayer]) -> str:
    """The text of ``MultipoleCache.report``."""
    if not clustered or not clustered[0].is_initialized:
        return "The cache holds nothing yet."
    return "\n".join(
        [*_held(record, layers, clustered), *_prompt(record), *_steps(record), *_read(clustered)]
    )


def _held(record: Record, layers: Sequence[Any], clustered: Sequence[ClusteredLayer]) -> list[str]:
    h = clustered[0].hierarchy
    text = f"Held: {count(h.length, 'key')} a head in {count(len(layers), 'layer')}"
    if len(clustered) < len(layers):
        text += f", of which {len(clustered)} cluster them"
    if not h.blocks:
        least = dense_until(h)
        why = f", as long as there are fewer than {least:,} keys" if h.length < least else ""
        if record.handed and not record.steps and not any(one.dense_steps for one in clustered):
            why = (
                ", for the model's attention takes the keys themselves, as every function but sdpa does: "
                "decode inside `with cache.on(model):`"
            )
        return [f"{text}; none is in a cluster yet, so every step is dense and exact{why}."]
    levels = ", these in ".join(count(level.keys.length, "cluster") for level in h.levels)
    exact = h.length - h.clustered + h.sinks
    return [f"{text}; {h.clustered - h.sinks:,} lie in {levels}; {exact:,} are always exact."]


def _prompt(record: Record) -> list[str]:
    if len(record.prompt) < 2:
        return []
    whole = record.prompt[1].since(record.prompt[0])
    spent = sum(end.since(begin) for begin, end in record.clustering)
    if not record.clustering:
        return [f"Prompt: {whole:,.1f} ms in the model; nothing was clustered."]
    return [
        f"Prompt: {whole:,.1f} ms in the model; then {spent:,.1f} ms to cluster its keys "
        f"({spent / whole:.0%} of that), in the first step."
    ]


def _steps(record: Record) -> list[str]:
    times = [b.since(a) for a, b in pairwise(record.steps)][1:]  # the first step has the prompt's clustering
    if not times:
        return []
    middle = statistics.median(times)
    text = f"Last {count(len(times), 'step')}: {middle:.2f} ms in the middle, {max(times):.2f} at most"
    if record.joins:
        join = statistics.median(end.since(begin) for begin, end in record.joins)
        text += f"; keys of one layer joined clusters in {join:.2f} ms"
    return [f"{text} (the whole model's time from token to token)."]


def _read(clustered: Sequence[ClusteredLayer]) -> list[str]:
    lines, layer = [], clustered[0]
    h, s = layer.hierarchy, layer.settings
    if h.blocks:
        budget = min(s.tokens(h.length), h.clustered)
        looked = s.looked_at(h.levels[0].keys.length, int(layer.portion.most * budget))
        centroids = h.levels[-1].keys.length + (looked if len(h.levels) == 2 else 0)
        exact = h.length - h.clustered + h.sinks
        read = centroids + exact + budget
        shared = ", on the mean of all heads" if layer.portion.share is not None else ""
        lines += [
            f"A step reads {read:,} keys or centroids of a head, {read / h.length:.0%} of its keys: {centroids:,} "
            f"centroids, {exact:,} keys that are always exact, and up to {budget:,} of clusters that it opens{shared}.",
            f"Steps are run by {_runner(layer)}.",
        ]
        if h.sketch is not None:
            share = looked / h.levels[0].keys.length if len(h.levels) == 2 else 1
            keys = round(share * (h.clustered - h.sinks))
            lines.insert(1, f"It chooses by two bits a coordinate of some {keys:,} more keys.")
    if dense := sum(one.dense_steps for one in clustered):
        lines.append(
            f"{count(dense, 'step')} of a layer had a mask that hides more than padding, and were dense."
        )
    return lines


def _runner(layer: ClusteredLayer) -> str:
    if layer.fixed is None:
        return "torch"
    graph = ", as a CUDA graph that is recorded again when keys have joined" if layer.fixed.graphs else ""
    return f"the Triton kernels{graph}"


def bytes_of(layers: Sequence[Any], scratch: int) -> dict[str, int]:
    """What ``MultipoleCache.nbytes`` says, given the bytes that all layers share."""
    from multipole_lab.decoding.layer import ClusteredLayer

    parts = {"keys": 0, "values": 0, "centroids": 0, "index": 0, "scratch": scratch}
    for layer in layers:
        if isinstance(layer, ClusteredLayer):
            for name, buffer in layer.hierarchy.buffers().items():
                part = {"position": "index", "codes": "centroids", "sizes": "centroids"}.get(name, name)
                parts["centroids" if name.startswith("level") else part] += buffer.nbytes
            if layer.hierarchy.valid is not None:
                parts["index"] += layer.hierarchy.valid.nbytes
        elif layer.is_initialized:
            parts["keys"] += layer.keys.nbytes
            parts["values"] += layer.values.nbytes
    return parts | {"total": sum(parts.values())}
