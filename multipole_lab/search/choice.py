"""A choice of ``tune`` that was saved, put into a model in one line: ``with ml.load_choice(path).on(model): ...``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.attention import Method
from multipole_lab.method_text import as_text, parse_method
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


@suggesting
def load_choice(path: str | Path) -> Choice:
    """The choice that ``tune(...).save(path)`` or ``multipole-lab tune --json`` wrote.

    Raises
    ------
    OSError : a file that cannot be read.
    ValueError : a file that is something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is no choice of tune; ml.tune(...).save(path) writes one")
    facts = {name: found[name] for name in ("layers", "causal", "length", "error", "max_error")}
    return Choice(method=parse_method(found["method"]), **facts)
