"""Methods side by side on captured queries and keys: error and time in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from multipole_lab.attention import Exact, Method
from multipole_lab.clustering.checks import check_count, check_flag
from multipole_lab.devices import chosen_device
from multipole_lab.environment import Measured
from multipole_lab.measure.errors import per_head_error
from multipole_lab.measure.precision import default_dtype
from multipole_lab.measure.references import reference
from multipole_lab.measure.timing import interleaved
from multipole_lab.measure.workload import chosen_layers, chosen_methods
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    from multipole_lab.models import Sample
    from multipole_lab.table import Table


@suggesting
def compare(
    sample: Sample,
    methods: Method | Sequence[Method],
    causal: bool = False,
    layers: Sequence[int] | None = None,
    tokens: int | None = None,
    repeats: int = 3,
    device: str | None = None,
) -> Table:
    """Every method against exact attention on every captured layer.

    Parameters
    ----------
    sample : captured layers, as ``ml.load_sample`` gives them.
    methods : one or more.
    causal : causal attention instead of full.
    layers : which layers; all of the sample by default.
    tokens : how many tokens to use, from the first; all by default.
    repeats : timed turns a side.
    device : "cpu" or "cuda", in the precision of ``default_dtype`` there; by default the GPU where there is one.

    Returns
    -------
    A data frame, which prints whole in 80 columns. A row for each method and layer: ``method`` (its text), ``layer``,
    ``causal``, ``n``, ``rse`` (relative squared error, mean over heads), ``worst_head`` (its largest over heads),
    ``seconds``, ``exact_seconds`` (torch's scaled_dot_product_attention in the same turns), ``speedup`` and
    ``memory`` (bytes of the largest resident growth on CUDA; NaN on a CPU, where torch does not count them).
    Errors are against exact attention in float32. ``table.attrs["measured"]`` has device, precision, versions and
    command, as a ``Measured`` has them.

    Raises
    ------
    ValueError : no methods, tokens out of range, layers that were not captured, or a device that is not there.
    TypeError : what is no sample, no method or no number.
    """
    from multipole_lab.table import Table

    layers, device = chosen_layers(sample, layers), chosen_device(device)
    dtype = default_dtype(device)
    methods = chosen_methods("methods", methods)
    check_flag("causal", causal)
    check_count("repeats", repeats, 1)
    if tokens is not None:
        check_count("tokens", tokens, 1)
        if tokens > len(sample):
            raise ValueError(f"tokens is {tokens}; between 1 and the sample's {len(sample)} is needed")
    rows = []
    for layer in layers:
        whole = sample[layer].q, sample[layer].k, sample[layer].v
        q, k, v = (x[:, :, :tokens].to(device, dtype) for x in whole)
        exact = Exact()(q.float(), k.float(), v.float(), causal=causal, scale=sample.scale)
        sides = {"exact": lambda q=q, k=k, v=v: reference(q, k, v, causal, sample.scale)}
        for i, method in enumerate(methods):
            sides[str(i)] = lambda m=method, q=q, k=k, v=v: m(q, k, v, causal=causal, scale=sample.scale)
        with torch.no_grad():
            times = interleaved(sides, repeats=repeats, device=q.device)
        for i, method in enumerate(methods):
            with torch.no_grad():
                error = per_head_error(sides[str(i)](), exact)
            rows.append(
                {
                    "method": str(method),
                    "layer": layer,
                    "causal": causal,
                    "n": q.shape[2],
                    "rse": error.mean().item(),
                    "worst_head": error.max().item(),
                    "seconds": times[str(i)] / 1e3,
                    "exact_seconds": times["exact"] / 1e3,
                    "speedup": times["exact"] / times[str(i)],
                    "memory": peak_memory(sides[str(i)], q.device),
                }
            )
    table = Table(rows)
    table.attrs["measured"] = Measured.here(device, dtype, "ml.compare").facts()
    return table


def peak_memory(call, device: torch.device) -> float:
    """Bytes that one call takes above what is there before it, on CUDA; NaN elsewhere."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)
