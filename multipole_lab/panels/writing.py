"""The writing panel: a model writes over a clustered cache, a dense one beside it, and what it reads is lit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import ipywidgets as widgets
import numpy as np
from transformers import PreTrainedModel

from multipole_lab.decoding.settings import Settings
from multipole_lab.environment import Measured
from multipole_lab.figures import writing as draw
from multipole_lab.lessons.writing import Author, Replay, Word, parting
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.timed import TimedPanel
from .common.words import button, place
from .page.manuscript import Manuscript

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PAUSE = 0.15  # seconds between two pictures of one text; its words come as they are written


class WritingPanel(TimedPanel):
    """The last words of a text: written by a model, or replayed from the sample where there is none."""

    title = "writing"
    main = "budget", "levels", "others", "word"
    words = 24

    def __init__(self, sample, model=None, tokenizer=None) -> None:
        if (model is None) != (tokenizer is None):
            raise ValueError("model and tokenizer: both are needed, or neither; ml.load_model gives both")
        if model is not None and not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"model: a model of transformers is needed, as ml.load_model gives it, got {type(model).__name__}"
            )
        self._model, self._tokenizer = model, tokenizer
        self._page, self._pen, self._kept = Manuscript(), None, None
        super().__init__(sample)
        self.device = "cpu" if model is None else model.device.type
        self._page.observe(self._clicked, "chosen")

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample, or the model, allows."""
        if self._model is None:
            layer, heads = controls.layer(sample), sample[sample.layers[0]].k.shape[1]
        else:
            config = self._model.config.get_text_config(decoder=True)
            layers = config.num_hidden_layers
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            layer = controls.integer("layer", "Which layer's reading is lit", 0, layers - 1, layers // 2)
        return {
            "layer": layer,
            "head": controls.integer("key head", "Which key head's reading is lit", 0, heads - 1, 0),
            "context": controls.context(sample, 2048 if self._model is None else 1024),
            "budget": controls.powers(
                "budget", "How many keys of opened clusters a step may read exactly", 16, 2048, 128
            ),
            "levels": controls.levels(),
            "others": controls.others(),
            "word": controls.integer("word", "The word whose reading is lit", 1, self.words, self.words),
        }

    def compute(self, layer, head, context, budget, levels, others, word) -> Iterator[Picture | None]:
        """Write on with these settings, or from the start where all is written or the prompt is another one."""
        settings = Settings(
            budget=budget,
            levels=1 if levels == "one" else 2,
            replacement=others == "centroids",
            dense_until=0,  # clusters are what is shown, whether or not they pay yet
        )
        pen, wanted = self._pen, (layer, settings)
        if pen is None or context != self._kept[0] or (self._full and wanted != self._kept[1]):
            self._pen = pen = None
            yield self._draw(head, word)
            self._pen = pen = self._begin(context)
        self._kept = context, wanted
        pen.use(layer, settings)
        drawn = 0.0
        while not self._full:
            self._next()
            if time.perf_counter() - drawn > _PAUSE and not self._full:
                yield self._draw(head, word)
                drawn = time.perf_counter()
            else:
                self._say(head, word)
                yield None
        yield self._draw(head, word)

    @property
    def measured(self) -> Measured:
        """What belongs to the times: the model's device and precision, one thread where a text is replayed."""
        if self._model is None:
            return Measured.here("cpu", "float32", "ml.panels.writing", threads=1)
        return Measured.here(self._model.device, self._model.dtype, "ml.panels.writing")

    def forget(self) -> None:
        """Put the text away that was written after the sample before."""
        self._pen = None

    def reset(self, _button=None) -> None:
        """Put every control back, and write from the prompt on."""
        self.forget()
        super().reset()

    @property
    def _call(self) -> str:
        return super()._call if self._model is None else "writing(sample, model, tokenizer)"

    @property
    def _full(self) -> bool:
        """Whether all words are written."""
        return self._pen is not None and len(self._pen.words) == self.words

    def _begin(self, context: int) -> Replay | Author:
        """Read the prompt: the text, less the words that are to come."""
        if self._model is None:
            return Replay(self.sample, context, self.words)
        length = context - self.words
        return Author(self._model, self._tokenizer, "".join(self.sample.tokens[:length]), length)

    def _next(self) -> None:
        """Write a word. What is replayed are small operations, of which threads only wait for each other."""
        if self._pen.live:
            self._pen.next()
        else:
            with one_thread():
                self._pen.next()

    def _draw(self, head: int, word: int) -> Picture:
        """The present text, and the picture of what its words read."""
        words = self._pen.words if self._pen else []
        self._say(head, word)
        read = [w.read(head) for w in words]
        opened = np.array([w.opened(head).sum() for w in words], dtype=int)
        exact = np.array([one.sum() for one in read], dtype=int)
        table = {
            "word": [w.text for w in words],
            "dense_word": [w.dense for w in words],
            "keys": np.array([w.length for w in words], dtype=int),
            "read_exactly": exact,
            "in_opened_clusters": opened,
            "clusters_opened": np.array([_count(w, "opened", head) for w in words], dtype=int),
            "centroids_looked_at": np.array([_count(w, "looked", head) for w in words], dtype=int),
            "ms": np.array([w.ms for w in words]),
            "dense_ms": np.array([w.dense_ms for w in words]),
        }
        figure = draw(
            table["word"], table["dense_word"], table["keys"], exact - opened, opened, table["centroids_looked_at"],
            table["ms"], table["dense_ms"], np.array([w.error for w in words]),
            where=f"key head {head} of layer {self.state()['layer']}", live=self._model is not None,
            machine=self.machine, detail=self.busy, word=max(min(word, len(words)) - 1, 0),
        )  # fmt: skip
        return Picture(figure, table, len(words) / self.words)

    def _say(self, head: int, word: int) -> None:
        """Bring the words on the page to what is written."""
        if self._pen is None:
            self._page.show([], [], -1, np.zeros(0, dtype=bool), np.zeros(0, dtype=bool))
            return
        words, parted = self._pen.words, parting(self._pen.words)
        titles = {"clustered cache": ("text", "ms"), "dense cache": ("dense", "dense_ms")}
        if not self._pen.live:
            titles = {"the story goes on, replayed": ("text", "ms")}
        sides = [
            {
                "title": title,
                "words": [getattr(w, text) for w in words],
                "clock": _clock([getattr(w, ms) for w in words]),
                "parted": -1 if parted is None else parted,
                "own": text == "text",
            }
            for title, (text, ms) in titles.items()
        ]
        at = min(word, len(words)) - 1
        lit = (words[at].read(head), words[at].opened(head)) if words else 2 * [np.zeros(0, dtype=bool)]
        self._page.show(self._pen.prompt, sides, at, *lit)

    def _clicked(self, change) -> None:
        """A click on a written word chooses it."""
        at = change["new"] + 1
        if self._pen is not None and at not in (0, min(self.state()["word"], len(self._pen.words))):
            place(self.controls, "word", at)

    def _above(self) -> list[widgets.Widget]:
        """The text stands over the figure."""
        return [self._page]

    def _buttons(self) -> list[widgets.Widget]:
        """Add a button that writes the same once more."""
        again = button("Write again", "Begin again after the prompt", self._write_again)
        return [again]

    def _write_again(self, _button) -> None:
        """Put the text away."""
        self.forget()
        self._moved(None)


def _count(word: Word, what: str, head: int) -> int:
    """How many clusters were looked at or opened."""
    return 0 if word.step is None else int(getattr(word.step, what)[0, head].sum())


def _clock(ms: list[float]) -> str:
    """How long a side has written."""
    return f"{sum(ms) / 1000:.2f} s, {len(ms)} word{'s' * (len(ms) != 1)}"


@suggesting
def writing(
    sample, model: PreTrainedModel | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> WritingPanel:
    """Let a model go on with the text of ``sample``, word by word over a clustered cache, and light what it reads.

    Parameters
    ----------
    sample : from ``ml.load_sample`` or ``ml.capture``.
    model, tokenizer : from ``ml.load_model``, or any others of transformers: they write live, over a clustered and a
        dense cache in turns. Without them the last words of the sample are replayed in one layer.

    Raises
    ------
    ValueError : one of model and tokenizer without the other. TypeError : a model that is none of transformers.
    """
    return WritingPanel(sample, model, tokenizer)
