"""The fastest method under an error: found on one part of a sample, reported on another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from multipole_lab.attention import Exact, Method
from multipole_lab.attention.calls.leaf import settled
from multipole_lab.clustering.checks import check_count, check_flag, check_seed
from multipole_lab.devices import chosen_device
from multipole_lab.environment import Measured
from multipole_lab.measure.precision import default_dtype
from multipole_lab.measure.workload import Workload, chosen_layers, chosen_methods, fingerprint
from multipole_lab.method_text import as_text
from multipole_lab.search.limits import check_max_error
from multipole_lab.search.rows import Rows, kept_rows
from multipole_lab.search.space import by_text, suggest_methods, that_fit
from multipole_lab.search.tuner_result import TuningResult
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    from multipole_lab.models import Sample

Progress = Callable[[float, float], object]

# Queries are dealt out in spans of the text, to two folds that are tuned on and one that is held out.
SPANS = 24
DEAL = (0, 1, 2, 2, 1, 0)
# What is left after screening on one key head a layer: the largest error, as a factor of the allowed one (heads
# differ); the largest time, as a factor of the exact one; the most settings, those that look fastest.
WORSE, SLOWER, KEPT = 4.0, 1.6, 24
# A setting that takes more than this factor of the fastest allowed one's time is not timed again.
HOPELESS = 1.5


@suggesting
def tune(
    sample: Sample,
    max_error: float = 0.02,
    *,
    causal: bool = False,
    length: int | None = None,
    layers: Sequence[int] | None = None,
    methods: Sequence[Method] | None = None,
    held_out: Sample | None = None,
    device: str | None = None,
    repeats: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """The fastest method whose error is at most ``max_error``, with evidence from queries that it was not chosen on.

    The error is the relative squared error, the mean over the heads of all layers. It decides on two thirds of the
    queries, in two folds of which the worse one counts; the last third, in spans between theirs and with another
    seed of the clustering, is only reported on. Successive halving: every method on one key head of every layer;
    those that look accurate and fast enough on all heads; the accurate ones, the cheapest first, are timed in turns
    with exact attention. Where nothing accurate enough is faster than exact attention, that is the answer.

    Parameters
    ----------
    sample : captured layers, as ``ml.load_sample`` and ``ml.capture`` give them.
    max_error : the largest error allowed, above 0.
    causal : causal attention instead of full.
    length : tokens, from the first; the sample's by default. Beyond them tokens are drawn again
        (``TuningResult.source``).
    layers : which layers; all of the sample by default. A method for one layer alone may be faster.
    methods : what to choose from, one or several; by default up to some two hundred settings that suit the length.
        In causal attention ``leaf="auto"`` is tried, and kept in the choice, as the number that it is on this device.
    held_out : another sample of the same layers, another text say, to report on as well.
    device : "cpu" or "cuda"; by default the GPU where there is one.
    repeats : turns that a time is the median of.
    seed : of the held-out clusterings (which take the next one) and of the resampling.
    out : a file for the measurements, as they come; the same call with the same file continues.
    progress : called as ``progress(done, total)``; what it raises ends the search.

    Raises
    ------
    ValueError : an error that is not above 0, a text too short to approximate, methods of which none fits it, unknown
        layers, a device that is not there.
    TypeError : what is no sample, no method, no number.
    """
    check_max_error(max_error, " (ml.Exact() has error 0)")
    check_flag("causal", causal)
    check_count("repeats", repeats, 1)
    check_seed(seed)
    layers, device = chosen_layers(sample, layers), chosen_device(device)
    if held_out is not None:
        chosen_layers(held_out, layers, "held_out")
    length = len(sample) if length is None else length
    check_count("length", length, 1)
    size = max(getattr(sample[layers[len(layers) // 2]], part).shape[-1] for part in "qv")
    settle = partial(settled, device=device, dtype=default_dtype(device), head_size=size)
    candidates = _candidates(methods, length, causal, settle)
    identity = {
        "sample": fingerprint(sample), "held_out": held_out and fingerprint(held_out), "layers": layers,
        "length": length, "causal": causal, "max_error": max_error, "methods": list(candidates), "repeats": repeats,
        "seed": seed, "device": device,
    }  # fmt: skip
    measured = Measured.here(device, default_dtype(device), "ml.tune")
    tell = progress or (lambda done, total: None)
    with kept_rows(out, "tune", identity, measured) as rows:
        tell(0, 1)
        work = Workload(sample, layers, length, causal, device, seed=seed)
        search = _Search(work, candidates, max_error, repeats, seed, rows, tell)
        table, chosen = search.run()
        evidence = _evidence(work, chosen, seed, rows, "held out")
        if held_out is not None:
            other = Workload(held_out, layers, min(length, len(held_out)), causal, device, seed=seed)
            evidence += _evidence(other, chosen, seed, rows, "other sample")
        tell(1, 1)
    return TuningResult.from_rows(
        chosen, table, evidence, max_error=max_error, length=length, layers=layers, causal=causal, device=device,
        baseline=work.baseline, source=work.source, tried=len(candidates), measured=measured,
    )  # fmt: skip


@dataclass
class _Search:
    """Three rounds, each on fewer methods and more costly than the one before."""

    work: Workload
    candidates: dict[str, Method]
    max_error: float
    repeats: int
    seed: int
    rows: Rows
    tell: Progress

    def run(self) -> tuple[list[dict], Method]:
        """The table's rows, and the method that is chosen."""
        looks = self._round("screen", list(self.candidates), self._screen, 0.0, 0.5)
        left = self._promising(looks, self.work.exact_ms() / self.work.timed[1].shape[1])
        errors = self._round("error", left, self._errors, 0.5, 0.75)
        table, fastest = [], float("inf")
        for i, text in enumerate(left):
            error = errors[text]["rse"]
            row = self.rows.get("time", text, partial(self._time, self.candidates[text], fastest))
            if error <= self.max_error:
                fastest = min(fastest, row["ms"])
            table.append({**errors[text], **row})
            self.tell(0.75 + 0.25 * (i + 1) / len(left), 1)
        allowed = [row for row in table if row["rse"] <= self.max_error and row["speedup"] > 1]
        best = max(allowed, key=lambda row: row["speedup"], default=None)
        return table, self.candidates[best["method"]] if best else Exact()

    def _round(self, stage: str, texts: list[str], measure, first: float, last: float) -> dict[str, dict]:
        found = {}
        for i, text in enumerate(texts):
            found[text] = self.rows.get(stage, text, partial(measure, self.candidates[text]))
            self.tell(first + (last - first) * (i + 1) / len(texts), 1)
        return found

    def _screen(self, method: Method) -> dict:
        """Error and time on one key head of every layer, by the queries that are tuned on."""
        tuned, _ = folds(self.work.length)
        times: list[float] = []
        error = self.work.errors(method, tuned, kv_head=0, times=times).mean((1, 2)).max().item()
        return {"rse": error, "ms": min(times)}

    def _promising(self, looks: dict[str, dict], exact_ms: float) -> list[str]:
        """The methods of the next round, those that look fastest first.

        Besides those that may do, the ones that nothing beats at any error: they say what another error would buy.
        """
        order = sorted(looks, key=lambda text: looks[text]["ms"])
        order = [text for text in order if looks[text]["ms"] <= SLOWER * exact_ms] or order[:1]
        least, front = float("inf"), []
        for text in order:
            if looks[text]["rse"] < least:
                least = looks[text]["rse"]
                front.append(text)
        may_do = [text for text in order if looks[text]["rse"] <= WORSE * self.max_error]
        kept = {*may_do[:KEPT], *front}
        return [text for text in order if text in kept]

    def _errors(self, method: Method) -> dict:
        tuned, _ = folds(self.work.length)
        errors = self.work.errors(method, tuned)
        return {"rse": errors.mean((1, 2)).max().item(), "worst_head": errors.max().item()}

    def _time(self, method: Method, fastest: float) -> dict:
        ms, exact_ms, turns = self.work.time(method, self.repeats, HOPELESS * fastest)
        return {
            "seconds": ms / 1e3, "exact_seconds": exact_ms / 1e3, "speedup": exact_ms / ms, "ms": ms, "turns": turns,
            "operations": self.work.operations(method),
        }  # fmt: skip


def folds(length: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Query positions: two folds to tune on, and in a list of its own the one that is held out."""
    span = torch.arange(length) * min(SPANS, length) // length
    fold = torch.tensor(DEAL)[span % len(DEAL)]
    first, second, last = (torch.nonzero(fold == i).flatten() for i in range(3))
    return [first, second], [last]


def _candidates(
    methods: Sequence[Method] | None, length: int, causal: bool, settle: Callable[[Method], Method]
) -> dict[str, Method]:
    """Methods by their text, their causal leaves as long as "auto" is here: elsewhere it may be another length."""
    if methods is None:
        found = suggest_methods(length, causal, settle)
    else:
        found = that_fit([settle(method) for method in chosen_methods("methods", methods)], length, causal)
    found = by_text(found)
    if found:
        return found
    if methods is None:
        raise ValueError(
            f"{length} tokens are too few to approximate; a longer text is needed, or methods of your own"
        )
    raise ValueError(f"methods has none that approximates anything in {length} tokens; fewer clusters may")


def _evidence(work: Workload, method: Method, seed: int, rows: Rows, part: str) -> list[dict]:
    """A line for each layer, on held-out queries (all, of another sample) with another seed of the clustering."""
    if hasattr(method, "seed"):
        method = replace(method, seed=method.seed + seed + 1)
    held = folds(work.length)[1] if part == "held out" else None

    def measure() -> dict:
        return {"errors": work.errors(method, held)[0].tolist()}

    errors = torch.tensor(rows.get(part, as_text(method), measure)["errors"])
    return [
        {
            "part": part, "layer": layer, "rse": of_layer.mean().item(), "worst_head": of_layer.max().item(),
            "source": source_of_part(work, part),
        }
        for layer, of_layer in zip(work.layers, errors, strict=True)
    ]  # fmt: skip


def source_of_part(work: Workload, part: str) -> str:
    """What a line of evidence is about, in words."""
    queries = len(folds(work.length)[1][0]) if part == "held out" else work.length
    return f"{queries:,} queries, {work.source}"
