"""Three questions to a model: does a drop-in, a capture, the clustered cache work in it, and are they right?

Right is what the model's own attention gives: with every key exact a method, and with a budget for every key the cache,
must not change a thing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from multipole_lab.attention import Exact, MuSe, Window
from multipole_lab.decoding import MultipoleCache
from multipole_lab.evaluation.families.tiny import LENGTH, Part
from multipole_lab.interface.cache_name import with_cache
from multipole_lab.interface.functions import Hook, Output, attention_layers, hooked, layer_numbers
from multipole_lab.models import capture

TOLERANCE = 2e-3  # of the largest output: single precision, through two layers of large weights
NEAR_ALL = MuSe(clusters=4, near=4, leaf=8)


@dataclass(frozen=True)
class Answer:
    """What came out: ``kind`` in a word, and why."""

    kind: Literal["works", "exact", "refused", "wrong", "none"]
    words: str = ""

    def __str__(self) -> str:
        if self.kind == "none":
            return "-"
        return f"{self.kind}: {self.words}" if self.words else self.kind


def asked(question: Callable[[Part], Answer], part: Part) -> Answer:
    """The answer to one of the questions; an error that is no refusal in words is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return question(part)
        except (ValueError, TypeError, NotImplementedError) as error:
            return Answer("refused", " ".join(str(error).split()))
        except Exception as error:
            return Answer("wrong", f"{type(error).__name__}: {' '.join(str(error).split())}")


def drop_in(part: Part) -> Answer:
    """``method.on(model)``: exact ones change nothing, and an approximation reaches the output."""
    expected = part.read()
    for method in (Exact(), NEAR_ALL):
        with method.on(part.model) as calls:
            got = part.read()
        if not calls.approximated and not calls.exact:
            return Answer("wrong", "no call of attention came")
        if not _same(got, expected):
            return Answer(
                "wrong", f"{method!r} changes the output by {_error(got, expected):.1e} of the largest"
            )
    reasons = sorted({reason for _, reason in calls.exact})
    if not calls.approximated:
        return Answer("exact", "; ".join(reasons))
    with Window(size=2, sinks=0).on(part.model):
        if _same(part.read(), expected):
            return Answer("wrong", "an approximation changes nothing")
    return Answer("works", "exact where " + "; ".join(reasons) if reasons else "")


def captured(part: Part) -> Answer:
    """``ml.capture``: attention over what is kept is what the layer computed."""
    seen: dict[int, Tensor] = {}
    numbers = layer_numbers(part.model)

    def watch(former: Hook, module: nn.Module, *args: object, **kwargs: object) -> Output:
        out = former(module, *args, **kwargs)
        seen.setdefault(numbers.get(module), out[0].transpose(1, 2))
        return out

    layers = sorted(attention_layers(part.model)) or [0]
    inputs = {name: x[1:] for name, x in part.inputs.items()}  # the row without padding
    with hooked(part.model, watch):
        sample = capture(part.model, None, inputs, layers=layers, dtype=torch.float32)
    apart = sample.provenance["apart"]
    windows = sample.provenance["sliding_window"]
    plain = [layer for layer in layers if int(windows.get(str(layer), LENGTH)) >= LENGTH]
    for layer in plain:
        one = sample[layer]
        out = Exact()(one.q, one.k, one.v, causal=sample.provenance["causal"], scale=sample.scale)
        if not apart and not _same(out, seen[layer]):
            return Answer(
                "wrong", f"attention over layer {layer} is another by {_error(out, seen[layer]):.1e}"
            )
    return Answer("works", f"without {', '.join(apart)}, as its record says" if apart else "")


def cached(part: Part) -> Answer:
    """``MultipoleCache``: with a budget for every key, tokens one by one are those of a dense cache."""
    if not part.decodes:
        return Answer("none")
    ids = part.inputs["input_ids"][1:]

    def run(cache: object) -> Tensor:
        steps = ids.split([LENGTH - 8] + [1] * 8, 1)
        with torch.no_grad():
            return torch.cat(
                [part.model(step, **with_cache(part.model, cache), use_cache=True)[0] for step in steps], 1
            )

    try:
        expected = run(DynamicCache(config=part.model.config))
    except Exception:  # it wants more than ids, or a cache of its own
        return Answer("none")
    cache = MultipoleCache(config=part.model.config, budget=4 * LENGTH, sinks=1, recent=2, interval=4)
    with cache.on(part.model):
        got = run(cache)
    if not _same(got, expected):
        return Answer("wrong", f"the logits differ by {_error(got, expected):.1e} of the largest")
    dense = sum(getattr(layer, "dense_steps", 0) for layer in cache.layers)
    return Answer("exact", f"{dense} steps over all keys") if dense else Answer("works")


def _error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def _same(got: Tensor, expected: Tensor) -> bool:
    return got.shape == expected.shape and _error(got, expected) < TOLERANCE
