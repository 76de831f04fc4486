"""A text of the reader's own: pasted into a panel, read by a model while they wait, and shown as its sample."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import ipywidgets as widgets

from ..common.words import button
from ..common.work import running_loop

if TYPE_CHECKING:
    from multipole_lab.models.samples.sample import Sample

MODEL = "smollm2"
LEAST, MOST = 64, 1024  # tokens: enough to be clustered, few enough to wait for
_LOOK = 0.2  # seconds after which the page is told how long it has been


class OwnText:
    """A box for a text and a button that lets the model read it.

    Parameters
    ----------
    layers : which ones are kept. show : called with the sample. explain : called with what is wrong, in words.

    Attributes
    ----------
    parts : the box, the button, and a line that says how far it is.
    """

    def __init__(
        self, layers: Callable[[], list[int]], show: Callable[[Sample], None], explain: Callable[[str], None]
    ) -> None:
        self._layers, self._show, self._explain = layers, show, explain
        self._found: Sample | None = None
        self._trouble = ""
        self.text = widgets.Textarea(
            description="own text", placeholder="paste a text", rows=3,
            tooltip=f"A text of your own, {LEAST} to {MOST:,} tokens of which are read",
        )  # fmt: skip
        self.button = button("Read it", "Let the model read this text, and show it here", self._pressed)
        self._words = widgets.HTML()
        self.parts = [self.text, self.button, self._words]

    def _pressed(self, _button: object) -> None:
        """Begin to read; outside Jupyter, read."""
        self.button.disabled = True
        text, layers, started = self.text.value, self._layers(), time.perf_counter()
        thread = threading.Thread(target=self._read, args=(text, layers), daemon=True)
        thread.start()
        if running_loop() is None:
            thread.join()
        self._look(thread, started)

    def _read(self, text: str, layers: list[int]) -> None:
        """Read in a thread; what goes wrong is for the panel to say."""
        self._found, self._trouble = None, ""
        try:
            self._found = read_text(text, layers)
        except Exception as error:
            self._trouble = str(error)

    def _look(self, thread: threading.Thread, started: float) -> None:
        """Show what was read, or how long it has been."""
        if thread.is_alive():
            self._words.value = f"<span>reading: {time.perf_counter() - started:.0f} s</span>"
            running_loop().call_later(_LOOK, self._look, thread, started)
            return
        self.button.disabled = False
        self._words.value = ""
        if self._found is None:
            self._explain(self._trouble)
        else:
            self._show(self._found)


def read_text(text: str, layers: list[int]) -> Sample:
    """The queries, keys and values of ``MODEL`` reading a text.

    Raises
    ------
    ValueError : there is no model here, or the text has fewer than ``LEAST`` tokens.
    """
    from multipole_lab.models.loading import is_cached
    from multipole_lab.models.samples.capturing import capture

    if not is_cached(MODEL):
        raise ValueError(
            f"No model is here that could read it; with a network, ml.load_model({MODEL!r}) brings one once."
        )
    model, tokenizer = _model()
    tokens = len(tokenizer(text)["input_ids"])
    if tokens < LEAST:
        raise ValueError(f"The text has {tokens} tokens; at least {LEAST} are needed.")
    last = model.config.num_hidden_layers
    kept = [layer for layer in layers if layer < last] or [last // 2]
    return capture(model, tokenizer, text, kept, max_tokens=MOST)


@cache
def _model() -> tuple:
    """The model and its tokenizer, loaded once for all panels."""
    from multipole_lab.models.loading import load_model

    return load_model(MODEL)
