"""The cheapest choice of a method for each layer that keeps a model's loss, or its divergence from dense attention.

Every layer is replaced alone, by every method, and its divergence measured. Layers then change their method one
after the other, those first that save most operations for the least divergence, and a bisection finds how far that may
go: the choices themselves are measured, on whole models, and the last one again on text that was held out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from multipole_lab import files
from multipole_lab.attention import Exact, Method
from multipole_lab.attention.calls.leaf import settled
from multipole_lab.environment import Measured
from multipole_lab.evaluation.reader import Head
from multipole_lab.interface.layers import attention_layers, head_size
from multipole_lab.measure.operation_counts import share_of_exact
from multipole_lab.method_text import CHOICE, as_text
from multipole_lab.suggesting import suggesting

Moves = list[tuple[int, Method]]


@dataclass(frozen=True)
class Effect:
    """What a choice does to the next token: KL from dense attention, nats, and the percentage the loss is above."""

    kl: float
    above: float


@dataclass(frozen=True)
class ChosenLayers:
    """A method for each layer that is replaced; all others stay exact.

    Attributes
    ----------
    methods : by layer.
    limit : what the choice was to keep to.
    tuned, held_out : what it did on the text it was chosen by, and on the other one.
    share : operations of attention in all layers, as a share of exact attention's.
    alone : of each layer and method: the effect of that layer alone, and its share of exact attention's operations.
    length : tokens of a text. measured : the machine, versions and command.
    """

    methods: Mapping[int, Method]
    limit: Effect
    tuned: Effect
    held_out: Effect
    share: float
    length: int
    alone: list[dict] = field(repr=False)
    measured: Measured = field(repr=False)

    @property
    def holds(self) -> bool:
        """Whether the limit is kept to on the text that was held out."""
        return _within(self.held_out, self.limit)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, for ``ml.load_choice(path).on(model)``."""
        effects = {
            part: {name: x if x < float("inf") else None for name, x in vars(getattr(self, part)).items()}
            for part in ("limit", "tuned", "held_out")
        }  # JSON knows no infinity: no limit is null
        methods = {str(layer): as_text(method) for layer, method in sorted(self.methods.items())}
        facts = {"holds": self.holds, "share": self.share, "length": self.length, "alone": self.alone}
        found = {"format": CHOICE, "methods": methods, **effects, **facts, "measured": self.measured.facts()}
        files.write(Path(path), json.dumps(found, indent=1, allow_nan=False) + "\n")
        return Path(path)

    def __str__(self) -> str:
        by_method: dict[str, list[int]] = {}
        for layer, method in sorted(self.methods.items()):
            by_method.setdefault(as_text(method), []).append(layer)
        lines = [f"{text} in layers {', '.join(map(str, layers))}" for text, layers in by_method.items()]
        kept = "keeps to it" if self.holds else "DOES NOT keep to it: ask for less"
        asked = [f"a loss at most {self.limit.above:g}% above"] * (self.limit.above < float("inf"))
        asked += [f"a KL of at most {self.limit.kl:g}"] * (self.limit.kl < float("inf"))
        lines += [
            f"{self.share:.0%} of exact attention's operations over {self.length:,} tokens, all layers together",
            f"asked was {' and '.join(asked)}; chosen at {self.tuned.above:+.2f}%, KL {self.tuned.kl:.4f}",
            f"on held-out text {self.held_out.above:+.2f}%, KL {self.held_out.kl:.4f}: {kept}",
        ]
        return "\n".join(lines if self.methods else ["no layer is replaced", *lines])


@suggesting
@torch.no_grad()
def choose_layers(
    model: PreTrainedModel,
    text: Int[Tensor, "W N"],
    held_out: Int[Tensor, "V N"],
    methods: Sequence[Method],
    *,
    max_above: float | None = None,
    max_kl: float | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> ChosenLayers:
    """Choose a method, or none, for every layer.

    Parameters
    ----------
    model : a causal language model of transformers, in evaluation mode.
    text : token ids of windows to choose by; every layer and method reads them once.
    held_out : windows of another text to measure the choice on.
    methods : what layers may have instead of exact attention; at most half as many reads again follow. ``leaf="auto"``
        is kept in the choice as the number of positions that it is for this model here.
    max_above : by how many percent the loss may exceed that of dense attention.
    max_kl : divergence from dense attention that is allowed, nats a token. One of both is needed.
    progress : called with layers and methods done, and all of them.

    Raises
    ------
    ValueError : no limit, or one below 0; no methods; a model without a language-modelling head.
    TypeError : a method whose operations no formula counts.
    """
    limits = {"max_above": max_above, "max_kl": max_kl}
    if max_above is None and max_kl is None:
        raise ValueError("max_above and max_kl are both None; one of them must limit the choice")
    for name, value in limits.items():
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value}; at least 0 is needed")
    if not methods:
        raise ValueError("methods is empty; at least one is needed")
    limit = Effect(*(float("inf") if x is None else float(x) for x in (max_kl, max_above)))
    config, length = model.config.get_text_config(), text.shape[1]
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    size = head_size(config)
    # With leaves as long as they are here: where the choice is used, "auto" may be another length.
    methods = list(dict.fromkeys(settled(method, model.device, model.dtype, size) for method in methods))
    facts = {"causal": True, "head_size": size, "heads": heads, "kv_heads": kv_heads}
    shares = {method: share_of_exact(method, length, **facts) for method in methods}
    layers, texts = sorted(attention_layers(model)), _Texts(model, text)
    alone, rows = {}, []
    for method in methods:
        for layer in layers:
            effect = alone[layer, method] = texts.effect({layer: method})
            rows.append({"layer": layer, "method": as_text(method), **vars(effect), "share": shares[method]})
            progress(len(rows), len(layers) * len(methods))
    moves = [move for layer in layers for move in _moves(layer, alone, shares)]
    moves = [(layer, method) for _, layer, method in sorted(moves, key=lambda move: move[0])]
    found, tuned = _farthest(moves, texts, limit)
    used = sum(shares[found[layer]] if layer in found else 1.0 for layer in layers)
    return ChosenLayers(
        methods=found, limit=limit, tuned=tuned, held_out=_Texts(model, held_out).effect(found),
        share=used / len(layers), length=length, alone=rows,
        measured=Measured.here(model.device, model.dtype, "choose_layers"),
    )  # fmt: skip


def _within(effect: Effect, limit: Effect) -> bool:
    return effect.kl <= limit.kl and effect.above <= limit.above


def _moves(
    layer: int, alone: Mapping[tuple[int, Method], Effect], shares: Mapping[Method, float]
) -> list[tuple[float, int, Method]]:
    """From exact attention to what saves most: (divergence for what is saved, layer, method), the cheapest first.

    They are the corners of the lower convex hull, so that each costs more for what it saves than the one before.
    """
    moves, kl, saved = [], 0.0, 0.0
    while True:
        further = [
            ((alone[layer, method].kl - kl) / (1 - share - saved), share, method)
            for method, share in shares.items()
            if 1 - share > saved
        ]
        if not further:
            return moves
        price, share, method = min(further, key=lambda move: move[:2])
        moves.append((price, layer, method))
        kl, saved = alone[layer, method].kl, 1 - share


def _farthest(moves: Moves, texts: _Texts, limit: Effect) -> tuple[dict[int, Method], Effect]:
    """The longest beginning of the moves within the limit, by bisection, and its effect."""
    low, high, effect = 0, len(moves), Effect(0.0, 0.0)
    while low < high:
        middle = (low + high + 1) // 2
        tried = texts.effect(dict(moves[:middle]))
        if _within(tried, limit):
            low, effect = middle, tried
        else:
            high = middle - 1
    return dict(moves[:low]), effect


class _Texts:
    """Windows of text with what dense attention makes of them."""

    def __init__(self, model: PreTrainedModel, ids: Int[Tensor, "W N"]) -> None:
        self.model, self.head, self.ids = model, Head(model), ids.to(model.device)
        self.dense = [self._hidden(window) for window in self.ids]
        self.loss = self._mean(self.head.losses, self.dense, [window[1:] for window in self.ids])

    def effect(self, methods: Mapping[int, Method]) -> Effect:
        """What these methods do to the mean of all windows."""
        if not methods:
            return Effect(0.0, 0.0)
        with Exact().on(self.model, layers=dict(methods), strict=True):
            hidden = [self._hidden(window) for window in self.ids]
        kl = self._mean(lambda ours, dense: self.head.divergences(ours, dense)[0], hidden, self.dense)
        loss = self._mean(self.head.losses, hidden, [window[1:] for window in self.ids])
        return Effect(kl, 100 * (loss / self.loss - 1))

    def _hidden(self, window: Int[Tensor, " N"]) -> Tensor:
        return self.model.base_model(input_ids=window[None], use_cache=False).last_hidden_state[0, :-1]

    @staticmethod
    def _mean(score: Callable, ours: list[Tensor], others: list[Tensor]) -> float:
        values = [score(a, b).mean().item() for a, b in zip(ours, others, strict=True)]
        return sum(values) / len(values)
