"""A choice of ``tune`` that was saved, put into a model in one line: ``with ml.load_choice(path).on(model): ...``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.attention import Exact, Method
from multipole_lab.files import check_path
from multipole_lab.method_text import CHOICE, as_text, parse_method
from multipole_lab.search.tuner_result import FORMAT
from multipole_lab.suggesting import suggesting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Choice:
    """What ``tune`` chose, and what it is true of.

    Attributes
    ----------
    method : the method; ``ml.Exact()`` where nothing allowed was faster.
    layers : the layers that it was measured on.
    causal, length : the attention and the number of tokens that it was measured with.
    error, max_error : its relative squared error on held-out queries, and the one allowed.
    """

    method: Method
    layers: list[int]
    causal: bool
    length: int
    error: float
    max_error: float

    def __str__(self) -> str:
        kind = "causal" if self.causal else "full"
        return (
            f"{as_text(self.method)} in layers {', '.join(map(str, self.layers))}: error {self.error:.2g} of "
            f"{self.max_error:g} allowed, {kind} attention over {self.length:,} tokens"
        )

    @suggesting
    def on(
        self, model: nn.Module, layers: int | Iterable[int] | None = None, strict: bool = False
    ) -> AbstractContextManager:
        """Run a transformers model with the choice: ``with choice.on(model): model.generate(...)``.

        Parameters
        ----------
        model : as for ``method.on``; training and generation inside too.
        layers : None for those that it was measured on; others have an error that nobody measured.
        strict : as for ``method.on``.

        Raises
        ------
        TypeError, ValueError : as ``method.on``; a model that lacks these layers.
        """
        return self.method.on(model, self.layers if layers is None else layers, strict)


@dataclass(frozen=True)
class LayerChoice:
    """What ``multipole-lab eval layers`` chose for a whole model, and what it is true of.

    Attributes
    ----------
    methods : the method of each layer that is replaced; all others stay exact.
    length : the number of tokens that it was measured with.
    share : operations of attention in all layers, as a share of exact attention's.
    held_out : ``kl`` from dense attention, nats a token, and the percentage that the loss lies ``above``, on text that
        was not chosen by. holds : whether that is what was asked for.
    """

    methods: dict[int, Method]
    length: int
    share: float
    held_out: dict[str, float]
    holds: bool

    def __str__(self) -> str:
        return (
            f"{len(self.methods)} layers replaced, {self.share:.0%} of exact attention's operations over "
            f"{self.length:,} tokens; on held-out text loss {self.held_out['above']:+.2f}%, "
            f"KL {self.held_out['kl']:.2g}"
        )

    @suggesting
    def on(self, model: nn.Module, strict: bool = False) -> AbstractContextManager:
        """Run a transformers model with the choice: ``with choice.on(model): model.generate(...)``.

        Raises
        ------
        TypeError, ValueError : as ``method.on``; a model that lacks these layers.
        """
        return Exact().on(model, self.methods, strict)


@suggesting
def load_choice(path: str | Path) -> Choice | LayerChoice:
    """The choice that ``tune(...).save(path)``, ``multipole-lab tune --json`` or ``multipole-lab eval layers`` wrote.

    Raises
    ------
    OSError : a file that cannot be read.
    ValueError : a file that is something else. TypeError : what is no path.
    """
    check_path("path", path)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("format") == CHOICE:
        methods = {int(layer): parse_method(text) for layer, text in found["methods"].items()}
        return LayerChoice(methods, *(found[name] for name in ("length", "share", "held_out", "holds")))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is no choice of tune; ml.tune(...).save(path) writes one")
    facts = {name: found[name] for name in ("layers", "causal", "length", "error", "max_error")}
    return Choice(method=parse_method(found["method"]), **facts)
