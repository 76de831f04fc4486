"""The expansion drawn: the true field over the queries, two approximations of it, and their errors."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.suggesting import suggesting

from .common import theme

# Three columns of square plots: the two ends of each in the figure's width; the colour bars take the rest.
_COLUMNS = ((0.0, 0.28), (0.315, 0.595), (0.63, 0.91))
_ROWS = ((0.57, 0.96), (0.0, 0.4))
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
    queries are. The lower left square shows the keys themselves: a dot is as large as p's weight on it, and
    the star (the tilted centroid) has moved from the plain mean (the x) towards the heavy dots.

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
    top = theme.heading_height(finding, reading)
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 560, "uirevision": "expansion"})
    fields = [("exact", truth), ("at the origin", origin), (f"at p: {order}", tilted)]
    for column, (name, values) in enumerate(fields):
        _draw_field(fig, axis, values, name, 0, column, "coloraxis")
    for column, values in enumerate(errors, start=1):
        _draw_field(fig, axis, values, "its error", 1, column, "coloraxis2")
    _draw_keys(fig, keys, labels, weights, centroids, tilted_centroids)
    _draw_points(fig, p, query)
    _colours(fig, (truth, origin, tilted), errors)
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top, "r": 8})
    return fig


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


def _axes(row: int, column: int) -> tuple[str, str]:
    """Name the axes of the square at (row, column), plotly's way: x, x2, ... x6."""
    index = 3 * row + column + 1
    suffix = "" if index == 1 else str(index)
    return f"x{suffix}", f"y{suffix}"


def _draw_field(fig, axis, values, name, row, column, coloraxis) -> None:
    """Fill one square with the field and its level lines, and lay out its axes and heading."""
    x, y = _axes(row, column)
    fig.add_trace(
        go.Contour(
            x=axis,
            y=axis,
            z=values,
            coloraxis=coloraxis,
            contours={"showlines": True},
            line={"width": 0.6, "color": "rgba(255, 255, 255, 0.55)"},
            ncontours=14,
            name=name,
            hovertemplate="query (%{x:.2f}, %{y:.2f})<br>" + name + ": %{z:.3f}<extra></extra>",
            xaxis=x,
            yaxis=y,
        )
    )
    _square(fig, row, column, name, (axis[0], axis[-1]))


def _square(fig, row, column, heading, limits) -> None:
    """Lay out one square plot with its heading; only the outer ones carry numbers."""
    x, y = _axes(row, column)
    (left, right), (bottom, top) = _COLUMNS[column], _ROWS[row]
    across = "" if row == 0 else "key x" if column == 0 else "query x"
    upward = "" if column else "key y" if row else "query y"
    common = {"range": list(limits), "showgrid": False, "zeroline": False, "dtick": 2}
    fig.layout[x.replace("x", "xaxis")] = {
        **common,
        "domain": [left, right],
        "anchor": y,
        "title": {"text": across},
    }
    fig.layout[y.replace("y", "yaxis")] = {
        **common,
        "domain": [bottom, top],
        "anchor": x,
        "showticklabels": column == 0,
        "title": {"text": upward},
    }
    fig.add_annotation(
        text=heading,
        x=0.5,
        xref=f"{x} domain",
        y=1,
        yref=f"{y} domain",
        yanchor="bottom",
        showarrow=False,
        font={"size": 13},
    )


def _draw_keys(fig, keys, labels, weights, centroids, tilted) -> None:
    """Draw the sources: one dot a key, its area p's weight on it; the mean moves from the x to the star."""
    x, y = _axes(1, 0)
    place = {"xaxis": x, "yaxis": y, "mode": "markers", "showlegend": False}
    shade = theme.cycle(theme.QUALITATIVE, labels)
    fig.add_trace(
        go.Scatter(
            x=keys[:, 0],
            y=keys[:, 1],
            marker={"size": 4 + 22 * np.sqrt(weights), "color": shade, "opacity": 0.75},
            customdata=weights,
            hovertemplate="a key<br>p gives it %{customdata:.0%} of its cluster's weight<extra></extra>",
            name="keys",
            **place,
        )
    )
    for points, symbol, words in ((centroids, "x", "plain mean"), (tilted, "star", "tilted centroid")):
        fig.add_trace(
            go.Scatter(
                x=points[:, 0],
                y=points[:, 1],
                marker={
                    "symbol": symbol,
                    "size": 9 if symbol == "x" else 14,
                    "color": "#ffffff",
                    "line": {"width": 1.2, "color": "#000000"},
                },
                hovertemplate=words + " of one cluster<extra></extra>",
                name=words,
                **place,
            )
        )
    reach = max(3.0, float(np.abs(keys).max()) * 1.05)
    _square(fig, 1, 0, "keys, seen from p", (-reach, reach))


def _draw_points(fig, p, query) -> None:
    """Mark p and the query in every square of queries, ringed so that they show on any colour."""
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)):
        x, y = _axes(row, column)
        about = p if column == 2 else np.zeros(2)
        for point, symbol, words in ((about, "cross", "expansion point"), (query, "circle", "query")):
            if column == 0 and symbol == "cross":
                continue
            fig.add_trace(
                go.Scatter(
                    x=[point[0]],
                    y=[point[1]],
                    mode="markers",
                    marker={
                        "symbol": symbol,
                        "size": 11,
                        "color": "#ffffff" if symbol == "cross" else theme.ORANGE,
                        "line": {"width": 1.5, "color": "#000000"},
                    },
                    hovertemplate=words + " (%{x:.2f}, %{y:.2f})<extra></extra>",
                    showlegend=False,
                    xaxis=x,
                    yaxis=y,
                )
            )


def _colours(fig, fields, errors) -> None:
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
        bottom, top = _ROWS[row]
        height = {"y": (bottom + top) / 2, "len": (top - bottom) * 1.05}
        fig.layout[name] = {
            "colorscale": theme.SEQUENTIAL,
            "cmin": limits[0],
            "cmax": limits[1],
            "colorbar": {**bar, **height},
        }
