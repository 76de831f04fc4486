"""Time and error against context length: exact and approximate attention, turn by turn, on this machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from multipole_lab.devices import chosen_device
from multipole_lab.measure.errors import relative_squared_error
from multipole_lab.measure.graphs import as_graph
from multipole_lab.measure.inputs import Load
from multipole_lab.measure.references import fastest_reference, reference
from multipole_lab.measure.timing import interleaved

_AGREE = 0.25  # turns agree when their middle half spreads over no more than this share of the median


@dataclass(frozen=True)
class Pace:
    """One length measured.

    Attributes
    ----------
    length : tokens. exact_ms, approx_ms : median milliseconds of a call as a user makes it.
    rse : relative squared error; NaN where the tokens were drawn again.
    baseline : the exact kernel.
    exact_range, approx_range : between which milliseconds half of the turns were; None where there is no such.
    exact_device_ms, approx_device_ms : median milliseconds of a GPU alone, its host out of the way, in a CUDA graph;
        NaN on a CPU and for what no graph can hold.
    """

    length: int
    exact_ms: float
    approx_ms: float
    rse: float
    baseline: str
    exact_range: tuple[float, float] | None = None
    approx_range: tuple[float, float] | None = None
    exact_device_ms: float = math.nan
    approx_device_ms: float = math.nan


@torch.inference_mode()
def time_lengths(
    layer,
    lengths: Sequence[int],
    method: Callable,
    scale: float | None = None,
    seconds: float = 0.8,
    device: str | None = None,
    load: Load | None = None,
) -> Iterator[Pace | None]:
    """Yield one :class:`Pace` for each length, as soon as it is measured, in the device's ``default_dtype``.

    Between two turns it yields None, so that a caller can attend to other things or stop.

    Parameters
    ----------
    layer : q [1, Hq, N, D], k [1, Hk, N, D], v [1, Hk, N, Dv].
    lengths : the context lengths; each takes that many tokens, from the first, or draws them again where the layer has
        fewer.
    method : called as ``method(q, k, v, causal=..., scale=...)``; its time includes the clustering.
    scale : the factor on the logits.
    seconds : about how long to measure one length, in at least two turns and at most nine; up to three times as long,
        and 27 turns, where they do not agree.
    device : "cpu" or "cuda"; by default the GPU where there is one.
    load : heads, texts at once, causal or full; the layer's own heads, one text and full attention by default.
    """
    device, load = chosen_device(device), load or Load()
    for length in lengths:
        q, k, v = load.of(layer, length, device)

        def attend(q=q, k=k, v=v):
            return method(q, k, v, causal=load.causal, scale=scale)

        baseline, attend_exactly = fastest_reference(q, k, v, load.causal)
        out, rse = attend(), math.nan  # both sides are warm now
        if load.is_real(layer, length):
            one = (x[:1].float() for x in (q, k, v))  # all texts are the same one
            rse = float(relative_squared_error(out[:1], reference(*one, load.causal, scale)))
        sides = {"exact": attend_exactly, "approx": attend}
        times: dict[str, list[float]] = {"exact": [], "approx": []}
        while len(times["exact"]) < _turns(times, seconds):
            yield None
            for side, ms in interleaved(sides, repeats=1, warmup=0, device=device).items():
                times[side].append(ms)
        exact_ms, approx_ms = (statistics.median(side) for side in times.values())
        yield Pace(
            length, exact_ms, approx_ms, rse, baseline, *map(_middle, times.values()), *_alone(sides, device)
        )


def _alone(sides: dict[str, Callable[[], object]], device: str, turns: int = 5) -> tuple[float, float]:
    """What the device itself takes for both sides, in turns; NaN for a side that no graph holds, and on a CPU."""
    if torch.device(device).type != "cuda":
        return math.nan, math.nan
    graphs = {}
    for side, call in sides.items():
        try:
            graphs[side] = as_graph(call)
        except RuntimeError:
            torch.cuda.synchronize()
    times = interleaved(graphs, repeats=turns, device=device) if graphs else {}
    return times.get("exact", math.nan), times.get("approx", math.nan)


def _turns(times: dict[str, list[float]], seconds: float) -> int:
    """How many turns fit: two to nine, by the fastest so far, for a slow one may have waited for something else.

    Where the middle half of a side's turns spreads over a quarter of its median, three times as many.
    """
    if not all(times.values()):
        return 2
    turns = min(max(int(1e3 * seconds / sum(min(side) for side in times.values())), 2), 9)
    agree = all(
        _middle(side)[1] - _middle(side)[0] <= _AGREE * statistics.median(side) for side in times.values()
    )
    return turns if agree else 3 * turns


def _middle(times: list[float]) -> tuple[float, float]:
    """Between which times the middle half lies."""
    low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else 3 * times
    return low, high
