"""Layers of a sample at one length on one device: the errors of methods there, and their times in turns with exact."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from multipole_lab.attention import Method
from multipole_lab.attention.calls.leaf import settled_for
from multipole_lab.measure.inputs import at_length
from multipole_lab.measure.operation_counts import operations
from multipole_lab.measure.precision import default_dtype
from multipole_lab.measure.references import fastest_reference, reference
from multipole_lab.measure.timing import interleaved
from multipole_lab.models.samples.sample import check_sample

if TYPE_CHECKING:
    from multipole_lab.models import Sample

# How many of its last turns give the median of exact attention, where it had none beside a method's own.
RECENT = 5


class Workload:
    """What methods are measured on. Errors are over all layers; a time is of one call on the middle one.

    Parameters
    ----------
    sample : captured layers.
    layers : which of them.
    length : tokens, from the first; beyond the sample's end tokens are drawn again, and ``source`` says so.
    causal : causal attention instead of full.
    device : where to compute, in the precision of ``default_dtype``.
    groups : key/value heads, from the first, each with all its query heads; all by default.
    seed : of the resampling.

    Attributes
    ----------
    source : where the numbers are from, in words. baseline : the exact attention that times are compared with.
    """

    def __init__(
        self,
        sample: Sample,
        layers: Sequence[int],
        length: int,
        causal: bool = False,
        device: str = "cpu",
        groups: int | None = None,
        seed: int = 0,
    ) -> None:
        self.layers, self.length, self.causal, self.device = list(layers), length, causal, device
        self.scale = sample.scale
        self.source = source_of(sample, length)
        dtype = default_dtype(device)
        self.inputs, self.exact = [], []
        for layer in self.layers:
            q, k, v = (getattr(sample[layer], part) for part in "qkv")
            kept = k.shape[1] if groups is None else min(groups, k.shape[1])
            q, k, v = q[:, : kept * (q.shape[1] // k.shape[1])], k[:, :kept], v[:, :kept]
            q, k, v = (x.contiguous().to(device, dtype) for x in at_length((q, k, v), length, seed))
            self.inputs.append((q, k, v))
            with torch.no_grad():
                self.exact.append(reference(q.float(), k.float(), v.float(), causal, self.scale))
        self.timed = self.inputs[len(self.inputs) // 2]
        self.baseline, self._attend_exactly = fastest_reference(*self.timed, causal)
        self._exact_times: list[float] = []
        self._since = 0.0

    @torch.no_grad()
    def errors(
        self,
        method: Method,
        folds: Sequence[Tensor] | None = None,
        kv_head: int | None = None,
        times: list[float] | None = None,
    ) -> Float[Tensor, "folds layers heads"]:
        """Relative squared errors by layer and head, over all queries or over each of some sets of them.

        Parameters
        ----------
        folds : sets of query positions; one of all by default.
        kv_head : only this key head and the query heads that read it; layer by layer the next one.
        times : a list that gets the milliseconds of every layer's call.
        """
        found = []
        for i, ((q, k, v), exact) in enumerate(zip(self.inputs, self.exact, strict=True)):
            if kv_head is not None:
                group, head = q.shape[1] // k.shape[1], (kv_head + i) % k.shape[1]
                mine = slice(head * group, (head + 1) * group)
                q, k, v, exact = q[:, mine], k[:, head : head + 1], v[:, head : head + 1], exact[:, mine]
            outs = []
            ms = self.one_turn(
                lambda q=q, k=k, v=v, outs=outs: outs.append(
                    method(q, k, v, causal=self.causal, scale=self.scale)
                )
            )
            if times is not None:
                times.append(ms)
            out = outs[0]
            wrong = (out.double() - exact.double()).square().sum(-1)[0]  # [Hq, N]
            size = exact.double().square().sum(-1)[0].clamp(min=torch.finfo(torch.float64).tiny)
            parts = [slice(None)] if folds is None else [fold.to(wrong.device) for fold in folds]
            found.append(torch.stack([wrong[:, part].sum(-1) / size[:, part].sum(-1) for part in parts]))
        return torch.stack(found, 1).cpu()

    @torch.no_grad()
    def time(
        self, method: Method, repeats: int = 3, give_up: float = float("inf")
    ) -> tuple[float, float, int]:
        """Median milliseconds of the method and of exact attention, and the method's turns.

        Exact attention has its turn whenever methods have taken as long as it since its last one: A B A B where both
        take about as long, and less often where exact attention takes far longer. The method has been called before.

        Parameters
        ----------
        repeats : turns of the method, at least 1.
        give_up : milliseconds; a turn that takes longer is the last.
        """
        q, k, v = self.timed
        self.exact_ms()
        times, before = [], len(self._exact_times)
        for _ in range(repeats):
            times.append(self.one_turn(lambda: method(q, k, v, causal=self.causal, scale=self.scale)))
            self._since += times[-1]
            if self._since >= self._exact_times[-1]:
                self._exact_turn()
            if times[0] > give_up:
                break
        own = self._exact_times[before:]
        exact = statistics.median(own if len(own) >= min(repeats, 2) else self._exact_times[-RECENT:])
        return statistics.median(times), exact, len(times)

    @torch.no_grad()
    def exact_ms(self) -> float:
        """What exact attention last took, in milliseconds."""
        if not self._exact_times:
            self.one_turn(self._attend_exactly)  # warms up
            self._exact_turn()
        return self._exact_times[-1]

    def operations(self, method: Method) -> float:
        """Multiply-adds of one timed call, by the formulas of ``operation_counts``."""
        q, k, v = self.timed
        method = settled_for(method, q, v)
        return operations(
            method, q.shape[2], causal=self.causal, head_size=q.shape[-1], value_size=v.shape[-1],
            heads=q.shape[1], kv_heads=k.shape[1],
        )  # fmt: skip

    def _exact_turn(self) -> None:
        self._exact_times.append(self.one_turn(self._attend_exactly))
        self._since = 0.0

    def one_turn(self, call) -> float:
        """Milliseconds of one call."""
        return interleaved({"call": call}, repeats=1, warmup=0, device=self.device)["call"]


def source_of(sample: Sample, length: int) -> str:
    """Where that many tokens of a sample are from, in words."""
    return "captured" if length <= len(sample) else f"resampled from {len(sample)} captured tokens"


def chosen_methods(name: str, methods: Method | Sequence[Method], more: str = "") -> list[Method]:
    """One method or several as a list; ``more`` ends the sentence of what is needed.

    Raises
    ------
    ValueError : none.
    TypeError : what is no method.
    """
    if isinstance(methods, Method):
        return [methods]
    needed = f"attention methods such as ml.MuSe() are needed{more}"
    if isinstance(methods, str | type) or not isinstance(methods, Iterable):
        raise TypeError(f"{name} is {methods!r}; {needed}")
    methods = list(methods)
    if not methods:
        raise ValueError(f"{name} is empty; {needed}")
    for method in methods:
        if not isinstance(method, Method):
            raise TypeError(f"{name} has {method!r}; {needed}")
    return methods


def chosen_layers(sample: Sample, layers: Sequence[int] | None, name: str = "sample") -> list[int]:
    """The layers asked for, or all of the sample, which is the argument ``name``.

    Raises
    ------
    ValueError : none, or one that was not captured.
    TypeError : what is no sample, or no list of numbers.
    """
    check_sample(sample, name)
    if layers is None or isinstance(layers, int):
        layers = sample.layers if layers is None else [layers]
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(f"layers is {layers!r}; a list of numbers is needed; there are {sample.layers}")
    layers = list(layers)
    if not layers:
        raise ValueError("layers is empty; at least one is needed")
    for layer in layers:
        if layer not in sample.layers:
            raise ValueError(f"layers has {layer!r}, which was not captured; there are {sample.layers}")
    return layers


def fingerprint(sample: Sample) -> str:
    """Twelve letters that tell one sample from another: of its tokens, layers and first vectors."""
    digest = hashlib.sha256(json.dumps([sample.layers, sample.scale, sample.token_ids.tolist()]).encode())
    for layer in sample.layers:
        digest.update(sample[layer].q[:, :, :16].contiguous().numpy().tobytes())
        digest.update(sample[layer].v[:, :, :16].contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
