"""The expansion drawn: the true field over the queries, two approximations of it, and their errors."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.colors import get_colorscale

from multipole_lab.suggesting import suggesting

from .common import theme
from .looks.squares import QUERIES, ROWS, axes, draw_field, draw_nearer, square

_GRIP = 0.35  # half the width of the ring that drags p
NAMES = {"potential": "Log mass", "output": "Output"}


@suggesting
def expansion(
    axis: Float[np.ndarray, " S"],
    truth: Float[np.ndarray, "S S"],
    origin: Float[np.ndarray, "S S"],
    tilted: Float[np.ndarray, "S S"],
    keys: Float[np.ndarray, "N 2"],
    labels: Int[np.ndarray, " N"],
    weights: Float[np.ndarray, " N"],
    centroids: Float[np.ndarray, "C 2"],
    tilted_centroids: Float[np.ndarray, "C 2"],
    p: Float[np.ndarray, " 2"],
    query: Float[np.ndarray, " 2"],
    at_query: tuple[float, float, float],
    quantity: str = "potential",
    order: str = "monopole",
) -> go.Figure:
    """Draw a field over the plane of queries: exact, expanded around the origin, and expanded around p.

    How to read it: each square is the plane of queries, brighter is larger, lines join equal values. In the
    top row the two approximations should look like the first square. Below each is its error: dark is good.
    The origin's expansion is dark around the origin, the tilted one around p (the cross), which is where the
    queries are. The square on the left of them shows the keys themselves: a dot is as large as p's weight on it,
    and the star (the tilted centroid) has moved from the plain mean (the x) towards the heavy dots. The last
    square compares the two errors: orange where p is nearer to the truth, purple where the origin is. A zoom into
    one square of queries is a zoom into all; in the panel the ring around p can be dragged.

    Parameters
    ----------
    axis : [S]. The coordinates of the grid, the same for both directions.
    truth, origin, tilted : [S, S]. The field at (y, x).
    keys : [N, 2]; labels : [N]; weights : [N], each key's weight inside its cluster as p sees it.
    centroids, tilted_centroids : [C, 2]. The mean key of each cluster, plain and weighted.
    p : the expansion point; query : one query to read numbers at.
    at_query : the field there: exact, origin, tilted.
    quantity : "potential" or "output". order : "monopole" or "dipole", of the tilted expansion.
    """
    errors = np.abs(origin - truth), np.abs(tilted - truth)
    finding, reading = _words(axis, errors, p, at_query, quantity)
    top = theme.heading_height(finding, reading) + 20
    layout = {"height": 690, "uirevision": "expansion", "annotations": [],
              "title": theme.title(finding, reading), "margin": {"t": top, "r": 8}}  # fmt: skip
    parts = {"data": [], "layout": layout}
    fields = [("exact", truth), ("at the origin", origin), (f"at p: {order}", tilted)]
    for column, (name, values) in enumerate(fields):
        draw_field(parts, axis, values, name, 0, column, "coloraxis")
    for column, values in enumerate(errors, start=1):
        draw_field(parts, axis, values, "its error", 1, column, "coloraxis2")
    draw_nearer(parts, axis, *errors)
    _draw_keys(parts, keys, labels, weights, centroids, tilted_centroids)
    _draw_points(parts, p, query)
    _colours(parts, (truth, origin, tilted), errors)
    return theme.unchecked(parts["data"], layout)


def _words(axis, errors, p, at_query, quantity) -> tuple[str, str]:
    """Compare the two errors within one unit of p, and read the field at the query."""
    x, y = np.meshgrid(axis, axis)
    near = (x - p[0]) ** 2 + (y - p[1]) ** 2 <= 1
    if not near.any():
        near = np.ones_like(near)
    plain, tilted = (float(error[near].mean()) for error in errors)
    if np.allclose(p, 0):
        finding = "p stands on the origin: move it to where the queries are and watch the dark patch follow"
    elif tilted < plain:
        ratio = theme.number(plain / max(tilted, 1e-12))
        finding = f"Near p, expanding around p is {ratio} times more accurate than around the origin"
    else:
        finding = "Here the origin does better: p is close to it, or a cluster is too wide for one expansion"
    true, first, second = (f"{value:.2f}" for value in at_query)
    reading = f"{NAMES[quantity]} at the orange query: exact {true}, origin {first}, p {second}."
    return finding, f"{reading} Among the keys: × plain means, ★ tilted centroids."


def _draw_keys(parts, keys, labels, weights, centroids, tilted) -> None:
    """Draw the sources: one dot a key, its area p's weight on it; the mean moves from the x to the star."""
    x, y = axes(1, 0)
    place = {"type": "scatter", "xaxis": x, "yaxis": y, "mode": "markers", "showlegend": False}
    shade = theme.cycle(theme.QUALITATIVE, labels)
    parts["data"].append(
        {
            "x": keys[:, 0],
            "y": keys[:, 1],
            "marker": {"size": 4 + 22 * np.sqrt(weights), "color": shade, "opacity": 0.75},
            "customdata": weights,
            "hovertemplate": "a key<br>p gives it %{customdata:.0%} of its cluster's weight<extra></extra>",
            "name": "keys",
            **place,
        }
    )
    for points, symbol, words in ((centroids, "x", "plain mean"), (tilted, "star", "tilted centroid")):
        rim = {"color": "#ffffff", "line": {"width": 1.2, "color": "#000000"}}
        parts["data"].append(
            {
                "x": points[:, 0],
                "y": points[:, 1],
                "marker": {"symbol": symbol, "size": 9 if symbol == "x" else 14, **rim},
                "hovertemplate": words + " of one cluster<extra></extra>",
                "name": words,
                **place,
            }
        )
    reach = max(3.0, float(np.abs(keys).max()) * 1.05)
    square(parts, 1, 0, "the keys", (-reach, reach))


def _draw_points(parts, p, query) -> None:
    """Mark p and the query in every square of queries, ringed so that they show on any colour."""
    x, y = axes(0, 2)
    corners = {"x0": p[0] - _GRIP, "x1": p[0] + _GRIP, "y0": p[1] - _GRIP, "y1": p[1] + _GRIP}
    look = {"line": {"color": "#ffffff", "width": 2, "dash": "dot"}, "fillcolor": "rgba(255, 255, 255, 0.01)"}
    ring = {"type": "circle", "xref": x, "yref": y, "name": "p", **corners, **look}
    parts["layout"]["shapes"] = [ring]
    for row, column in QUERIES:
        x, y = axes(row, column)
        about = p if column == 2 or row == 2 else np.zeros(2)
        for point, symbol, words in ((about, "cross", "expansion point"), (query, "circle", "query")):
            if row == column == 0 and symbol == "cross":
                continue
            colour = "#ffffff" if symbol == "cross" else theme.ORANGE
            rim = {"line": {"width": 1.5, "color": "#000000"}}
            parts["data"].append(
                {
                    "type": "scatter",
                    "x": [point[0]],
                    "y": [point[1]],
                    "mode": "markers",
                    "marker": {"symbol": symbol, "size": 11, "color": colour, **rim},
                    "hovertemplate": words + " (%{x:,.2f}, %{y:,.2f})<extra></extra>",
                    "showlegend": False,
                    "xaxis": x,
                    "yaxis": y,
                }
            )


def _colours(parts, fields, errors) -> None:
    """Give each row one colour scale: the truth's range, and one range for both errors."""
    bar = {
        "thickness": 11,
        "x": 0.925,
        "xanchor": "left",
        "outlinewidth": 0,
        "yanchor": "middle",
        "nticks": 5,
    }
    low, high = float(fields[0].min()), float(fields[0].max())
    worst = max(float(np.quantile(errors[0], 0.75)), 1e-6)
    for name, row, limits in (("coloraxis", 0, (low, high)), ("coloraxis2", 1, (0.0, worst))):
        bottom, top = ROWS[row]
        height = {"y": (bottom + top) / 2, "len": (top - bottom) * 1.05}
        parts["layout"][name] = {
            "colorscale": get_colorscale(theme.SEQUENTIAL),
            "cmin": limits[0],
            "cmax": limits[1],
            "colorbar": {**bar, **height},
        }
