"""Text written word by word over a clustered cache, a dense one beside it; without a model, a text replayed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from multipole_lab.attention import Exact
from multipole_lab.decoding.cache import MultipoleCache
from multipole_lab.decoding.settings import Settings
from multipole_lab.decoding.step.trace import TracedStep, traced
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.interface.cache_name import with_cache
from multipole_lab.lessons.decode_trace import take_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from multipole_lab.models.samples.sample import Sample


@dataclass(frozen=True)
class Word:
    """One word, a token in truth, and the decoding step that led to it.

    Attributes
    ----------
    text : of the clustered side. dense : of the dense side.
    length : keys in the clustered cache.
    step : what one layer read; None where it attends to all keys, as layers with a sliding window do.
    ms, dense_ms : milliseconds of the step on both sides.
    error : relative squared error of the layer's output, mean over its heads; NaN where both sides read other texts.
    """

    text: str
    dense: str
    length: int
    step: TracedStep | None
    ms: float
    dense_ms: float
    error: float

    def read(self, head: int) -> Bool[np.ndarray, " N"]:
        """Which keys a key head read exactly."""
        return np.ones(self.length, dtype=bool) if self.step is None else self.step.exact()[0, head]

    def opened(self, head: int) -> Bool[np.ndarray, " N"]:
        """Which of them are in clusters that were opened."""
        found = np.zeros(self.length + 1, dtype=bool)  # the last place takes the -1
        if self.step is not None:
            found[self.step.chosen[0, head]] = True
        return found[: self.length]


class Replay:
    """A captured text read on: its words are those that it has, and one layer decodes the queries that led to them.

    Parameters
    ----------
    sample : the text, and its queries, keys and values. length : its tokens, the replayed ones included.
    words : how many are replayed.

    Attributes
    ----------
    prompt : the tokens before. words : those replayed so far.
    """

    live = False

    def __init__(self, sample: Sample, length: int, words: int) -> None:
        self.sample, self.words = sample, []
        self.prompt = sample.tokens[: length - words]
        self._layer, self._settings, self._store = None, None, None

    def use(self, layer: int, settings: Settings) -> None:
        """Go on in this layer and with these settings: all keys so far are clustered again where they differ."""
        if (layer, settings) == (self._layer, self._settings):
            return
        self._layer, self._settings, self._store = layer, settings, Hierarchy(settings)
        end = len(self.prompt) - 1 + len(self.words)
        self._store.append(*(x[:, :, :end] for x in (self.sample[layer].k, self.sample[layer].v)))

    @torch.inference_mode()
    def next(self) -> Word:
        """Take the next step."""
        whole, t = self.sample[self._layer], len(self.prompt) - 1 + len(self.words)
        q, k, v = (x[:, :, t : t + 1] for x in (whole.q, whole.k, whole.v))
        (out, seen), ms = timed(lambda: take_step(self._store, q, k, v, self.sample.scale))
        past = whole.k[:, :, : t + 1], whole.v[:, :, : t + 1]
        exact, dense_ms = timed(lambda: Exact()(q, *past, scale=self.sample.scale))
        step = traced(self._layer, self._store, seen, q.shape[1] // k.shape[1])
        error = ((out - exact).square().sum(-1) / exact.square().sum(-1).clamp(min=1e-30)).mean()
        text = self.sample.tokens[t + 1]
        self.words.append(Word(text, text, t + 1, step, ms, dense_ms, float(error)))
        return self.words[-1]


class Author:
    """A model that goes on with a text, twice: over a clustered cache and over a dense one, each with its own words.

    The likeliest token is taken each time. The prompt is read once, but for its last token, which is the first step.

    Parameters
    ----------
    model, tokenizer : of transformers, as ``ml.load_model`` gives them. text : what it goes on with.
    length : the most tokens of the prompt.

    Attributes
    ----------
    prompt : its tokens. words : those written so far.

    Raises
    ------
    ValueError : a text of less than two tokens.
    """

    live = True

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, length: int
    ) -> None:
        from transformers import DynamicCache

        self.model, self._tokenizer, self.words = model, tokenizer, []
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :length].to(model.device)
        if ids.shape[1] < 2:
            raise ValueError(f"text: two tokens are needed to begin with, got {ids.shape[1]} ({text[:40]!r})")
        self.prompt = [tokenizer.decode([i]) for i in ids[0].tolist()]
        # Without a configuration both caches keep all keys, so that one can be made of the other's.
        self._dense, self._clustered = DynamicCache(), None
        self._last = {"clustered": ids[:, -1:], "dense": ids[:, -1:]}
        self._layer, self._settings = None, None
        self._forward(ids[:, :-1], self._dense)

    def use(self, layer: int, settings: Settings) -> None:
        """Go on with these settings, and show this layer: other settings cluster all keys so far again."""
        self._layer = layer
        if settings == self._settings:
            return
        before = self._clustered
        if before is None:
            before = [(one.keys, one.values) for one in self._dense.layers]
        self._settings, self._clustered = settings, MultipoleCache(**asdict(settings) | {"dense_until": 0})
        for number, (k, v) in enumerate(before):
            self._clustered.update(k, v, number)

    def next(self) -> Word:
        """Write the next word on both sides."""
        cache = self._clustered
        with cache.on(self.model), cache.trace(layers=[self._layer]) as trace:
            text, ms = timed(lambda: self._write("clustered", cache), self.model.device.type)
        dense, dense_ms = timed(lambda: self._write("dense", self._dense), self.model.device.type)
        step = trace.steps[-1] if trace.steps else None
        length = cache.get_seq_length()
        self.words.append(Word(text, dense, length, step, ms, dense_ms, float("nan")))
        return self.words[-1]

    def _write(self, side: str, cache: object) -> str:
        """The likeliest token after the last one of a side."""
        self._last[side] = self._forward(self._last[side], cache)
        return self._tokenizer.decode(self._last[side][0].tolist())

    @torch.inference_mode()
    def _forward(self, ids: Tensor, cache: object) -> Tensor:
        """Read tokens [1, n]; the likeliest next one, [1, 1]."""
        return self.model(ids, **with_cache(self.model, cache), use_cache=True).logits[:, -1:].argmax(-1)


def parting(words: list[Word]) -> int | None:
    """The first word that the two sides write differently; None while there is none."""
    return next((i for i, word in enumerate(words) if word.text != word.dense), None)


def timed(call: Callable, device: str = "cpu") -> tuple:
    """What a call returns, and its milliseconds, with what it has left a GPU to do."""
    began = time.perf_counter()
    found = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return found, (time.perf_counter() - began) * 1e3
