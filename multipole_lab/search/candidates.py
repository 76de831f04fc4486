"""Methods and settings worth comparing on one layer, measured one after the other against exact attention."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from multipole_lab.attention import Centroid, Method, MuSe, Window
from multipole_lab.devices import chosen_device
from multipole_lab.measure.errors import relative_squared_error
from multipole_lab.measure.inputs import Load
from multipole_lab.measure.references import fastest_reference, reference
from multipole_lab.measure.timing import interleaved

FAMILIES = (
    "MuSe monopole",
    "MuSe dipole",
    "MuSe with near clusters",
    "runs",
    "centroid",
    "window",
)


@dataclass(frozen=True)
class Candidate:
    """One method with its settings: the family it belongs to, and what sets it apart in words."""

    family: str
    setting: str
    method: Method


@dataclass(frozen=True)
class Cost:
    """What one call of a candidate took, in milliseconds, exact attention in the same turns, and its error."""

    index: int
    ms: float
    exact_ms: float
    rse: float


def candidates(length: int, causal: bool = False) -> list[Candidate]:
    """List settings of every method that fit ``length`` tokens; causal ones use exact leaves of an eighth of it.

    Cheap ones first, so that a picture fills from left to right.
    """
    leaf = {"leaf": max(64, length // 8)} if causal else {}
    found = []
    for clusters in (c for c in (16, 64, 256) if c <= length // 4):
        found += [
            Candidate("MuSe monopole", f"{clusters} clusters", MuSe(clusters=clusters, **leaf)),
            Candidate("MuSe dipole", f"{clusters} clusters", MuSe(clusters=clusters, order="dipole", **leaf)),
            Candidate("centroid", f"{clusters} clusters", Centroid(clusters=clusters, sinks=4, **leaf)),
        ]
        for near in (n for n in (2, 8) if 2 * n <= clusters):
            words, settings = (
                f"{clusters} clusters, {near} near",
                {"clusters": clusters, "near": near, **leaf},
            )
            found += [
                Candidate("MuSe with near clusters", words, MuSe(**settings)),
                Candidate("runs", words, MuSe(partition="runs", **settings)),
            ]
    sizes = (n for n in (64, 256, 1024) if n < length)
    found += [Candidate("window", f"{n} keys, 4 sinks", Window(size=n, sinks=4)) for n in sizes]
    return found


@torch.inference_mode()
def measure(
    layer,
    length: int,
    chosen: Sequence[Candidate],
    load: Load | None = None,
    scale: float | None = None,
    turns: int = 3,
    device: str | None = None,
) -> Iterator[Cost | None]:
    """Yield one :class:`Cost` for each candidate, in their order, as soon as it is measured.

    Every turn of a candidate is followed by a turn of exact attention. Between two turns it yields None, so that
    a caller can attend to other things or stop. In the device's ``default_dtype``; errors are against float32.

    Parameters
    ----------
    layer : q [1, Hq, N, D], k [1, Hk, N, D], v [1, Hk, N, Dv]; the first ``length`` tokens are used, or, where it has
        fewer, tokens drawn again, which flatters errors.
    load : heads, texts at once, causal or full; the layer's own heads, one text and full attention by default.
    turns : timed turns of each; a first turn warms up and gives the error.
    device : "cpu" or "cuda"; by default the GPU where there is one.
    """
    device = chosen_device(device)
    load = load or Load()
    q, k, v = load.of(layer, length, device)
    exact = reference(*(x[:1].float() for x in (q, k, v)), load.causal, scale)  # all texts are the same one
    yield None
    _, attend_exactly = fastest_reference(q, k, v, load.causal)
    for index, candidate in enumerate(chosen):

        def attend(method=candidate.method):
            return method(q, k, v, causal=load.causal, scale=scale)

        rse = float(relative_squared_error(attend()[:1], exact))
        sides = {"approx": attend, "exact": attend_exactly}
        times: dict[str, list[float]] = {"approx": [], "exact": []}
        for turn in range(turns):
            yield None
            for side, ms in interleaved(sides, repeats=1, warmup=int(turn == 0), device=device).items():
                times[side].append(ms)
        yield Cost(index, statistics.median(times["approx"]), statistics.median(times["exact"]), rse)
