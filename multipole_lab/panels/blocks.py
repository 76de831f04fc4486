"""The blocks panel: causal attention as a hierarchy, coloured by level, by error or by mass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from multipole_lab.attention import Exact, MuSe
from multipole_lab.attention.causal import block_sizes
from multipole_lab.figures import blocks as draw
from multipole_lab.lessons.block_errors import BlockLevel, block_errors
from multipole_lab.measure.errors import relative_squared_error
from multipole_lab.measure.heads import one_head
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.sampled import SampledPanel


class BlocksPanel(SampledPanel):
    """The blocks of causal attention of one head, and the error of each when it alone is approximated."""

    title = "blocks"
    main = "leaf", "clusters", "near", "colour"
    most_leaves = 128  # a finer picture shows less

    def __init__(self, sample) -> None:
        self._levels = lru_cache(maxsize=64)(self._measure)
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        tokens = len(sample.tokens)
        colours = {
            "level": "How often a block was doubled",
            "error": "The error of the whole head when this block alone is approximated",
            "mass": "How much of its queries' attention falls into the block",
        }
        return {
            "layer": controls.layer(sample),
            "head": controls.head(sample),
            "context": controls.context(sample),
            "leaf": controls.powers(
                "leaf", "Blocks of at most this many tokens are exact", 32, max(32, tokens), tokens // 16
            ),
            "clusters": controls.clusters(),
            "near": controls.near(),
            "order": controls.order(),
            "colour": controls.choice("colour", colours, "level"),
        }

    def compute(self, context, leaf, colour, **choices) -> Iterator[Picture]:
        """Approximate every block of one head alone, and then all of them together."""
        if context // leaf > self.most_leaves:
            raise ValueError(
                f"leaf: {leaf:,} cuts {context:,} tokens into more than {self.most_leaves} leaves, too small to see; "
                f"at least {context // self.most_leaves:,} is needed"
            )
        levels, rse = self._levels(context=context, leaf=leaf, **choices)
        size, _ = block_sizes(context, leaf)
        figure = draw(
            context,
            size,
            [level.error for level in levels],
            [level.mass for level in levels],
            rse,
            colour=colour,
        )
        table: dict[str, list] = {name: [] for name in ("size", "first_query", "first_key", "error", "mass")}
        for level in levels:
            for i in np.flatnonzero(~np.isnan(level.mass)):
                row = level.size, (2 * i + 1) * level.size, 2 * i * level.size, level.error[i], level.mass[i]
                for column, value in zip(table.values(), row, strict=True):
                    column.append(value)
        yield Picture(figure, table)

    def _measure(self, layer, head, context, leaf, **choices) -> tuple[list[BlockLevel], float]:
        """Return the levels of one head, and the error of the method as it is used."""
        q, k, v = one_head(self.sample[layer], head, context)
        method = MuSe(leaf=leaf, **choices)
        how = {"causal": True, "scale": self.sample.scale}
        with one_thread():
            levels = block_errors(q, k, v, method, self.sample.scale)
            return levels, float(relative_squared_error(method(q, k, v, **how), Exact()(q, k, v, **how)))


@suggesting
def blocks(sample) -> BlocksPanel:
    """Show the hierarchy of causal attention. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return BlocksPanel(sample)
