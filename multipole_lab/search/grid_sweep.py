"""Many settings at many lengths: error and time of each, and which of them nothing beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.attention import Exact, Method
from multipole_lab.clustering.checks import check_count, check_flag
from multipole_lab.devices import chosen_device
from multipole_lab.environment import Measured
from multipole_lab.measure.precision import default_dtype
from multipole_lab.measure.workload import Workload, chosen_layers, chosen_methods, fingerprint
from multipole_lab.method_text import as_python
from multipole_lab.search.rows import kept_rows
from multipole_lab.search.space import GRID, Grid, by_text, settings, that_fit
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    import pandas

    from multipole_lab.models import Sample
    from multipole_lab.table import Table

LONGEST = 131_072


@suggesting
def sweep(
    sample: Sample,
    grid: Grid | Sequence[Method] | None = None,
    *,
    lengths: Sequence[int] | None = None,
    causal: bool = False,
    layers: Sequence[int] | None = None,
    groups: int | None = None,
    draws: int | None = None,
    device: str | None = None,
    repeats: int = 3,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Callable[[float, float], object] | None = None,
) -> Table:
    """Error and time of every setting at every length, in turns with exact attention.

    Parameters
    ----------
    sample : captured layers, as ``ml.load_sample`` and ``ml.capture`` give them.
    grid : names of arguments to lists of values, of ``MuSe`` unless ``"method"`` lists other methods; or a list of
        methods. ``space.GRID`` by default. Settings that approximate nothing at a length are left out there.
    lengths : tokens, from the first; the sample's by default, at most 131,072. Beyond the sample tokens are drawn
        again with noise, and ``source`` says so.
    causal : causal attention instead of full.
    layers : which layers the error is over; all of the sample by default. Times are of the middle one.
    groups : how many key/value heads, each with its query heads, for long lengths take long. All by default.
    draws : a random search: how many combinations of the grid to try instead of all.
    device : "cpu" or "cuda"; by default the GPU where there is one.
    repeats : turns that a time is the median of.
    seed : of the draws and the resampling.
    out : a file for the rows, as they come; the same call with the same file continues.
    progress : called as ``progress(done, total)`` after every row; what it raises ends the sweep.

    Returns
    -------
    A data frame that prints whole: a row for each length and setting: method (text), length, causal, rse (relative
    squared error, mean over heads and layers), worst_layer, ms, exact_ms, speedup, operations (multiply-adds), share
    (of exact attention's), clusters, near, source ("captured" or "resampled from ..."), heads, baseline (which exact
    attention), front (nothing else of this length is as fast and as accurate), code (a line to paste).

    Raises
    ------
    ValueError, TypeError : an empty or wrong grid, lengths below 1 or above 131,072, settings of which none fits.
    """
    from multipole_lab.table import Table

    layers, device = chosen_layers(sample, layers), chosen_device(device)
    lengths = _lengths(sample, lengths)
    check_flag("causal", causal)
    check_count("repeats", repeats, 1)
    if groups is not None:
        check_count("groups", groups, 1)
    methods = _methods(grid, draws, seed)
    plan = {length: by_text(that_fit(methods, length, causal)) for length in lengths}
    total = sum(map(len, plan.values()))
    if not total:
        raise ValueError(
            f"grid has no setting that approximates anything in {max(lengths)} tokens; fewer clusters may, or in "
            "causal attention a shorter leaf"
        )
    identity = {
        "sample": fingerprint(sample), "layers": layers, "causal": causal, "groups": groups, "repeats": repeats,
        "seed": seed, "device": device,
    }  # fmt: skip
    measured = Measured.here(device, default_dtype(device), "ml.sweep")
    rows = []
    with kept_rows(out, "sweep", identity, measured) as kept:
        for length, chosen in plan.items():
            work = _Lazily(sample, layers, length, causal, device, groups, seed)
            for text, method in chosen.items():
                row = kept.get(str(length), text, partial(_measure, work, method, repeats))
                rows.append(
                    {"method": text, "length": length, "causal": causal, **row, "code": as_python(method)}
                )
                if progress is not None:
                    progress(len(rows), total)
    table = Table(rows).drop(columns="id")
    table.insert(len(table.columns) - 1, "front", front(table))
    table.attrs["measured"] = measured.facts()
    return table


def front(table: pandas.DataFrame) -> pandas.Series:
    """Which rows nothing beats: no other of the same length is as fast and as accurate, and better in one of both."""
    order = table.sort_values(["length", "ms", "rse"])
    before = order.groupby("length")["rse"].transform(lambda rse: rse.cummin().shift(fill_value=float("inf")))
    return (order["rse"] < before).reindex(table.index)


class _Lazily:
    """A workload that is made when the first of its rows is measured: a run that continues may need none of it."""

    def __init__(self, *arguments: object) -> None:
        self._arguments, self._made = arguments, None

    def __call__(self) -> Workload:
        if self._made is None:
            self._made = Workload(*self._arguments)
        return self._made


def _measure(lazily: _Lazily, method: Method, repeats: int) -> dict:
    work = lazily()
    errors = work.errors(method)[0]
    ms, exact_ms, _ = work.time(method, repeats)
    operations, exact_operations = work.operations(method), work.operations(Exact())
    return {
        "rse": errors.mean().item(), "worst_layer": errors.mean(1).max().item(), "ms": ms, "exact_ms": exact_ms,
        "speedup": exact_ms / ms, "operations": operations, "share": operations / exact_operations,
        "clusters": getattr(method, "clusters", None), "near": getattr(method, "near", None),
        "source": work.source, "heads": work.timed[0].shape[1], "baseline": work.baseline,
    }  # fmt: skip


def _lengths(sample: Sample, lengths: Sequence[int] | None) -> list[int]:
    if lengths is not None and (isinstance(lengths, str) or not isinstance(lengths, Iterable)):
        raise TypeError(f"lengths is {lengths!r}; a list of numbers of tokens is needed")
    lengths = [len(sample)] if lengths is None else list(dict.fromkeys(lengths))
    if not lengths:
        raise ValueError("lengths is empty; at least one is needed")
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, Integral):
            raise TypeError(f"lengths has {length!r}; integers are needed")
        if not 1 <= length <= LONGEST:
            raise ValueError(f"lengths has {length}; 1 to {LONGEST:,} is allowed")
    return sorted(lengths)


def _methods(grid: Grid | Sequence[Method] | None, draws: int | None, seed: int) -> list[Method]:
    if grid is None or hasattr(grid, "keys"):
        return settings(GRID if grid is None else grid, draws, seed)
    methods = chosen_methods("grid", grid, ", or names with lists of values")
    if draws is not None:
        raise ValueError(
            "draws picks from names with lists of values; a list of methods is measured as it is"
        )
    return methods
