"""Time and error against context length: exact and approximate attention, turn by turn, on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from multipole_lab.devices import chosen_device
from multipole_lab.measure.errors import relative_squared_error
from multipole_lab.measure.heads import first_tokens
from multipole_lab.measure.precision import default_dtype
from multipole_lab.measure.references import fastest_reference, reference
from multipole_lab.measure.timing import interleaved

_AGREE = 0.25  # turns agree when their middle half spreads over no more than this share of the median


@dataclass(frozen=True)
class Pace:
    """One length measured.

    Attributes
    ----------
    length : tokens. exact_ms, approx_ms : median milliseconds. rse : relative squared error.
    baseline : the exact kernel.
    exact_range, approx_range : between which milliseconds half of the turns were; None where there is no such.
    """

    length: int
    exact_ms: float
    approx_ms: float
    rse: float
    baseline: str
    exact_range: tuple[float, float] | None = None
    approx_range: tuple[float, float] | None = None


@torch.inference_mode()
def time_lengths(
    layer,
    lengths: Sequence[int],
    method: Callable,
    scale: float | None = None,
    seconds: float = 0.8,
    device: str | None = None,
) -> Iterator[Pace | None]:
    """Yield one :class:`Pace` for each length, as soon as it is measured, in the device's ``default_dtype``.

    Between two turns it yields None, so that a caller can attend to other things or stop.

    Parameters
    ----------
    layer : q [1, Hq, N, D], k [1, Hk, N, D], v [1, Hk, N, Dv].
    lengths : the context lengths; each takes that many tokens, from the first.
    method : called as ``method(q, k, v, scale=...)``; its time includes the clustering.
    scale : the factor on the logits.
    seconds : about how long to measure one length, in at least two turns and at most nine; up to three times as long,
        and 27 turns, where they do not agree.
    device : "cpu" or "cuda"; by default the GPU where there is one.
    """
    device = chosen_device(device)
    for length in lengths:
        q, k, v = (x.to(device, default_dtype(device)) for x in first_tokens(layer, length))
        exact = reference(q.float(), k.float(), v.float(), False, scale)
        baseline, attend_exactly = fastest_reference(q, k, v, False)
        rse = float(relative_squared_error(method(q, k, v, scale=scale), exact))  # both sides are warm now
        sides = {
            "exact": attend_exactly,
            "approx": lambda q=q, k=k, v=v: method(q, k, v, scale=scale),
        }
        times: dict[str, list[float]] = {"exact": [], "approx": []}
        while len(times["exact"]) < _turns(times, seconds):
            yield None
            for side, ms in interleaved(sides, repeats=1, warmup=0, device=device).items():
                times[side].append(ms)
        exact_ms, approx_ms = (statistics.median(side) for side in times.values())
        yield Pace(length, exact_ms, approx_ms, rse, baseline, *map(_middle, times.values()))


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
