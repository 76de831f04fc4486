"""The decode panel: a clustered cache read step by step, with the tokens that each step read exactly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from multipole_lab.decoding.settings import Settings
from multipole_lab.figures import decode as draw
from multipole_lab.lessons.decode_trace import StepRecord, decode_trace
from multipole_lab.measure.heads import first_tokens
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.sampled import SampledPanel


class DecodePanel(SampledPanel):
    """The last tokens of a text decoded one by one over clusters of the keys before them."""

    title = "decode"
    main = "budget", "levels", "others", "step"
    plays = "step"
    steps = 24

    def __init__(self, sample) -> None:
        self._traced = lru_cache(maxsize=64)(self._trace)
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        heads = sample[sample.layers[0]].k.shape[1]
        return {
            "layer": controls.layer(sample),
            "head": controls.integer(
                "key head",
                "Which key head; the query heads that read it open the same clusters",
                0,
                heads - 1,
                0,
            ),
            "context": controls.context(sample, 4096),
            "budget": controls.powers(
                "budget", "How many keys of opened clusters a step may sum exactly", 16, 2048, 128
            ),
            "share": controls.powers("keys/cluster", "How many keys a cluster has, on average", 2, 128, 16),
            "sinks": controls.integer("sinks", "How many first tokens are always exact", 0, 16, 10),
            "recent": controls.powers("recent", "How many of the last tokens are always exact", 1, 512, 128),
            "step": controls.integer("step", "The step that the title describes", 1, self.steps, 1),
            "levels": controls.levels(),
            "others": controls.others(),
        }

    def compute(self, step, **choices) -> Iterator[Picture]:
        """Decode the last tokens and draw what was read; another step changes the words and the frame alone."""
        records = self._traced(**choices)
        arrays = {
            name: np.array([getattr(record, field) for record in records])
            for name, field in (
                ("positions", "position"), ("sinks", "sinks"), ("tails", "tail"), ("mass", "mass"),
                ("error", "error"),
            )
        }  # fmt: skip
        figure = draw(
            **arrays,
            chosen=[record.chosen for record in records],
            weights=[record.weight for record in records],
            tokens=self.sample.tokens,
            step=step - 1,
        )
        table = {
            "position": arrays["positions"],
            "token": [self.sample.tokens[i] for i in arrays["positions"]],
        }
        table |= {"mass_read_exactly": arrays["mass"], "relative_squared_error": arrays["error"]}
        table["clusters_opened"] = [record.opened for record in records]
        table["keys_of_opened_clusters"] = [" ".join(map(str, record.chosen)) for record in records]
        yield Picture(figure, table)

    def _trace(self, layer, head, context, budget, share, sinks, recent, levels, others) -> list[StepRecord]:
        """Decode with the group of queries that read the key head, which open the same clusters."""
        q, k, v = first_tokens(self.sample[layer], context)
        group = q.shape[1] // k.shape[1]
        settings = Settings(
            fraction=1 / share, budget=budget, levels=1 if levels == "one" else 2, sinks=sinks, recent=recent,
            replacement=others == "centroids",
        )  # fmt: skip
        steps = min(self.steps, context - 1)
        rows = slice(head * group, (head + 1) * group)
        with one_thread():
            return decode_trace(
                q[:, rows], k[:, head : head + 1], v[:, head : head + 1], settings, steps, self.sample.scale
            )


@suggesting
def decode(sample) -> DecodePanel:
    """Show what a clustered cache reads exactly. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return DecodePanel(sample)
