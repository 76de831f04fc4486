"""The clusters panel: what k-means makes of the keys of one head."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from multipole_lab.clustering.capped import capacity
from multipole_lab.clustering.kmeans import kmeans
from multipole_lab.figures import clusters as draw
from multipole_lab.lessons.projection import Projection, neighbour_colours, principal_axes
from multipole_lab.measure.heads import one_head
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Picture
from .common.sampled import SampledPanel


class ClustersPanel(SampledPanel):
    """Keys of one head on their principal axes, coloured by cluster, with the sizes below."""

    title = "clusters"
    main = "clusters", "cap", "iterations", "spotlight"
    plays = "iterations"

    def __init__(self, sample) -> None:
        # The axes depend on the keys alone, so that moving any other slider does not fit them again.
        self._axes = lru_cache(maxsize=32)(self._fit)
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the controls with the ranges that this sample allows."""
        return {
            "layer": controls.layer(sample),
            "head": controls.head(sample),
            "context": controls.context(sample),
            "clusters": controls.clusters(16),  # few enough to be told apart by colour
            "cap": controls.cap(),
            "iterations": controls.iterations(),
            "seed": controls.seed(),
            "spotlight": controls.integer(
                "spotlight", "Show one cluster alone, the largest first; 0 shows all of them", 0, 64, 0
            ),
            "view": controls.choice(
                "view", {"2-D": "Two principal axes", "3-D": "Three: drag to rotate"}, "2-D"
            ),
        }

    def compute(self, layer, head, context, clusters, cap, iterations, seed, spotlight, view):
        """Cluster the keys and the queries of one head and place both on the keys' principal axes."""
        dims = 3 if view == "3-D" else 2
        q, k, _ = one_head(self.sample[layer], head, context)
        settings = {"clusters": clusters, "cap": cap, "iterations": iterations, "seed": seed}
        with one_thread():
            found, asking = kmeans(k, **settings), kmeans(q, **settings)
        axes = self._axes(layer, head, context)
        order = (-found.counts[0, 0].numpy()).argsort(
            kind="stable"
        )  # the largest is number 1 wherever it is named
        labels, counts = order.argsort()[found.labels[0, 0].numpy()], found.counts[0, 0].numpy()[order]
        centres = axes.project(found.centroids[0, 0].numpy()[order])[:, :2]
        figure = draw(
            points=axes.points[:, :dims],
            labels=labels,
            tokens=self.sample.tokens[:context],
            counts=counts,
            colours=neighbour_colours(centres),
            limit=capacity(context, clusters, cap),
            queries=axes.project(asking.centroids[0, 0].numpy())[:, :dims],
            origin=axes.project(np.zeros(k.shape[-1]))[:dims],
            query_counts=asking.counts[0, 0].numpy(),
            explained=axes.explained[:dims],
            spotlight=min(spotlight, clusters) - 1 if spotlight else None,
        )
        table = {"token": self.sample.tokens[:context], "cluster": labels + 1}
        table |= {f"axis_{i + 1}": axes.points[:, i] for i in range(dims)}
        yield Picture(figure, table)

    def _fit(self, layer: int, head: int, context: int) -> Projection:
        """Fit the principal axes of one head's keys."""
        return principal_axes(one_head(self.sample[layer], head, context)[1][0, 0].numpy())


@suggesting
def clusters(sample) -> ClustersPanel:
    """Show which keys of a head share a cluster. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return ClustersPanel(sample)
