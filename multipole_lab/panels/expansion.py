"""The expansion panel: a cluster of keys in the plane, its true field, and what its summary makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from multipole_lab.clustering.checks import check_count
from multipole_lab.figures import expansion as draw
from multipole_lab.figures.common.theme import CONFIG
from multipole_lab.lessons import toy
from multipole_lab.suggesting import suggesting
from multipole_lab.threads import one_thread

from .common import controls
from .common.base import Panel, Picture

_ORIGIN = np.zeros(2)


class ExpansionPanel(Panel):
    """The plane of queries: the exact field, its expansion around the origin, and around a point to move."""

    main = "p_x", "p_y", "spread", "order"

    def __init__(self, steps: int = 41) -> None:
        self.steps = steps
        about = "The point p that the tilted expansion is built around: "
        where = "The query at which the numbers are read: "
        moves = {
            "p_x": controls.real("p x", about + "its first coordinate", -3, 3, 1.2, 0.2),
            "p_y": controls.real("p y", about + "its second coordinate", -3, 3, 0.8, 0.2),
            "query_x": controls.real("query x", where + "first coordinate", -3, 3, 1.8, 0.2),
            "query_y": controls.real("query y", where + "second coordinate", -3, 3, 0.4, 0.2),
            "clusters": controls.integer("clusters", "How many clusters the keys form", 1, 6, 2),
            "spread": controls.real("spread", "How wide a cluster of keys is", 0.1, 1.5, 0.8, 0.1),
            "seed": controls.integer("seed", "Another set of keys", 0, 20, 0),
            "order": controls.order(),
            "field": controls.choice(
                "field",
                {"log mass": "How much weight the keys draw, together", "output": "What attention returns"},
                "log mass",
            ),
        }
        super().__init__("expansion", moves)
        # A click on any of the fields moves p there: the mouse's way to do what the two sliders do.
        for trace in self._shown.data[:6]:
            trace.on_click(self._clicked)
        self._shown._config = CONFIG | {
            "edits": {"shapePosition": True}
        }  # the one shape is the ring around p
        self._shown.observe(self._dragged, "_js2py_relayout")

    def compute(self, p_x, p_y, query_x, query_y, clusters, spread, seed, order, field) -> Iterator[Picture]:
        """Evaluate the exact field and both expansions over the grid, and at the one query."""
        quantity = "potential" if field == "log mass" else "output"
        sources = toy.make_toy(clusters, spread=spread, seed=seed)
        p, query = np.array([p_x, p_y]), np.array([query_x, query_y])
        axis, points = toy.grid(steps=self.steps)
        points = np.concatenate([points, query[None]])
        with one_thread():
            results = (
                toy.truth(sources, points),
                toy.expand(sources, _ORIGIN, points, "monopole"),
                toy.expand(sources, p, points, order),
            )
        values = [getattr(result, quantity) for result in results]
        fields = [value[:-1].reshape(self.steps, self.steps) for value in values]
        figure = draw(
            axis,
            *fields,
            keys=sources.keys,
            labels=sources.labels,
            weights=toy.weights(sources, p),
            centroids=toy.moments(sources, _ORIGIN).key,
            tilted_centroids=toy.moments(sources, p).key,
            p=p,
            query=query,
            at_query=tuple(float(value[-1]) for value in values),
            quantity=quantity,
            order=order,
        )
        table = {"query_x": points[:-1, 0], "query_y": points[:-1, 1]}
        table |= {n: f.ravel() for n, f in zip(("exact", "origin", "tilted"), fields, strict=True)}
        yield Picture(figure, table)

    def _clicked(self, _trace, points, _keys) -> None:
        """Move p to where a field was clicked."""
        if points.xs:
            self._place(points.xs[0], points.ys[0])

    def _dragged(self, change) -> None:
        """Move p to where the ring around it was let go."""
        moved = (change["new"] or {}).get("relayout_data", {})
        ends = [[moved.get(f"shapes[0].{side}{i}") for i in (0, 1)] for side in "xy"]
        if None in [*ends[0], *ends[1]]:
            return
        self._place(*(sum(pair) / 2 for pair in ends))
        ring = self._work.picture.figure.layout.shapes[0]  # where p is now, on the sliders' steps
        self._shown.put_back({f"shapes[0].{name}": ring[name] for name in ("x0", "x1", "y0", "y1")})

    def _place(self, x: float, y: float) -> None:
        """Move p to a place in the plane, on the sliders' steps and between their ends."""
        p_x, p_y = (float(np.clip(round(value / 0.2) * 0.2, -3, 3)) for value in (x, y))
        self.set(p_x=p_x, p_y=p_y)


@suggesting
def expansion(steps: int = 41) -> ExpansionPanel:
    """Show a multipole expansion in two dimensions; ``steps`` is the grid points along a side.

    Raises
    ------
    ValueError, TypeError : fewer than 2 steps, what is no integer.
    """
    check_count("steps", steps, 2)
    return ExpansionPanel(steps)
