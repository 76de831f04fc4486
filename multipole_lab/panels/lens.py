"""The lens panel: the text as words, what one word looks at, and through which clusters an approximation sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import ipywidgets as widgets
import numpy as np
import torch

from multipole_lab.attention import MuSe
from multipole_lab.figures import lens as draw
from multipole_lab.lessons.lens import Lens, Look, typical_tokens
from multipole_lab.measure.heads import one_head
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.sampled import SampledPanel
from .common.words import place
from .page.story import Story


class LensPanel(SampledPanel):
    """Two columns of the text shaded by attention, exact and approximate, over the words that weigh most."""

    title = "lens"
    main = "query", "clusters", "near", "head"
    plays = "near"

    def __init__(self, sample) -> None:
        self._story = Story()
        # Clusters do not depend on the word, so that walking through the text finds none again.
        self._lens = lru_cache(maxsize=32)(self._cluster)
        super().__init__(sample)
        self._story.observe(lambda change: place(self.controls, "query", change["new"]), "query")
        self.controls["context"].observe(self._crop, "value")
        self._crop(None)

    def controls_for(self, sample) -> dict[str, widgets.Widget]:
        """Make the controls with the ranges that this sample allows."""
        tokens = len(sample.tokens)
        context = controls.context(sample)
        return {
            "layer": controls.layer(sample),
            "head": controls.head(sample),
            "context": context,
            "query": controls.integer(
                "word",
                "The word that looks; click one in the text, or walk there with the arrow keys",
                0,
                context.value - 1,
                context.value * 3 // 4 - 1,
            ),
            "clusters": controls.clusters(32),
            "near": controls.near(2),
            "leaf": controls.leaf(tokens, tokens // 16),
            "order": controls.order(),
            "attention": controls.sight("causal"),
        }

    def compute(self, layer, head, context, query, attention, **choices) -> Iterator[Picture]:
        """Ask the clusters of the head about one word."""
        tokens = self.sample.tokens[:context]
        with one_thread():
            look = self._lens(layer, head, context, attention == "causal", MuSe(**choices)).at(query)
            error = self._error(look, layer, head, context)
        names = typical_tokens(tokens, look.cluster)
        figure = draw(tokens, query, look.exact, look.approximate, look.cluster, look.moved, names, error)
        titles = {
            number: f"{', '.join(words)}: a cluster of {(look.cluster == number).sum()} keys"
            for number, words in names.items()
        }
        self._story.show(tokens, query, look.exact, look.approximate, look.cluster, look.moved, titles)
        yield Picture(figure, {"position": np.arange(context), "token": tokens} | vars(look))

    def _cluster(self, layer, head, context, causal, method) -> Lens:
        """Find the clusters of a head."""
        q, k, _ = one_head(self.sample[layer], head, context)
        return Lens(method, q, k, causal, self.sample.scale)

    def _error(self, look: Look, layer: int, head: int, context: int) -> float:
        """The relative squared error of the word's output."""
        v = one_head(self.sample[layer], head, context)[2][0, 0].float()
        exact, found = (torch.from_numpy(weight) @ v for weight in (look.exact, look.approximate))
        return float((exact - found).square().sum() / exact.square().sum())

    def use(self, sample) -> None:
        """Show another sample; one that cannot be opened is explained in the panel."""
        super().use(sample)
        self._crop(None)

    def _crop(self, _change) -> None:
        """Let the word be one of the text that is attended to."""
        self.controls["query"].max = self.controls["context"].value - 1

    def _above(self) -> list[widgets.Widget]:
        """The text stands over the figure."""
        return [self._story]


@suggesting
def lens(sample) -> LensPanel:
    """Show what a word looks at, and through which clusters. ``sample`` is from ``ml.load_sample``."""
    return LensPanel(sample)
