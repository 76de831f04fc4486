"""The matrix of a head: exact attention, an approximation, their difference, and what is summed key by key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from multipole_lab.suggesting import suggesting

from ..common import theme

FAINTEST = 1e-5  # shares below this have the colour of nothing
HOLE = np.log10(FAINTEST) - 0.5  # where no query sees a key; None would be a gap, and takes long to send
BACKGROUND = "rgba(128, 128, 128, 0.08)"  # seen through holes


@suggesting
def matrix(
    exact: Float[np.ndarray, "cells cells"],
    approximate: Float[np.ndarray, "cells cells"],
    summed: Float[np.ndarray, "cells cells"],
    pairs: Float[np.ndarray, "cells cells"],
    tokens: int,
    rse: float,
    sorted_by: str = "position",
    edges: Sequence[tuple[float, float, float, float]] = (),
    name: str = "MuSe",
) -> go.Figure:
    """Draw who attends to whom: exactly, approximately, and where the two differ.

    How to read it: a row is a query, a column a key, and brighter means more attention (each step of the scale is ten
    times more). Exact attention is at the top left and the approximation beside it: what looks alike is alike. Below,
    orange is attention that a key gets too much of and blue too little. At the bottom right, blue cells are summed key
    by key; orange ones are seen through the summaries of clusters, which cost next to nothing. In the order of the
    text attention is a scatter of stripes; in the order of the clusters it falls into blocks, and a block is what one
    summary stands for.

    Parameters
    ----------
    exact, approximate : the share of attention that a query of the row gives to the keys of the column, 0 to 1.
    summed : how many pairs of the cell are summed one by one. pairs : how many a query sees; 0 leaves a hole.
    tokens : N, queries and keys. rse : relative squared error of the head's output.
    sorted_by : in words, what orders rows and columns.
    edges : rectangles (left, top, right, bottom) in tokens that are outlined.
    name : the approximation, in words.
    """
    one_by_one = summed.sum() / pairs.sum()
    finding = f"{name}: error {theme.number(rse)} with {one_by_one:.0%} of the pairs summed one by one"
    reading = f"A row is a query, a column a key, in the order of {sorted_by}. Bright: much attention."
    titles = "exact", name, "too much, too little", "how it is summed"
    fig = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.09)
    grid = {"x0": tokens / len(exact) / 2, "dx": tokens / len(exact)}
    grid |= {"y0": grid["x0"], "dy": grid["dx"]}
    seen = pairs > 0
    for column, (share, said) in enumerate(((exact, "exactly"), (approximate, name)), 1):
        fig.add_trace(
            go.Heatmap(
                z=np.where(seen, np.log10(np.maximum(share, FAINTEST)), HOLE).round(2), zmin=HOLE, zmax=0,
                customdata=_short(np.where(seen, share, 0.0)), colorscale=_with_holes(theme.SEQUENTIAL), name=said,
                showscale=column == 2, colorbar=_ticks(),
                hovertemplate=f"query %{{y:.0f}}, key %{{x:.0f}}<br>{said}: %{{customdata:.2%}}<extra></extra>", **grid,
            ), 1, column,
        )  # fmt: skip
    difference = np.where(seen, approximate - exact, 0.0)
    most = max(float(np.quantile(np.abs(difference[seen]), 0.995)), 1e-9)
    fig.add_trace(
        go.Heatmap(
            z=_short(difference), zmin=-most, zmax=most, colorscale=_both_ways(), showscale=False, name="difference",
            hovertemplate="query %{y:.0f}, key %{x:.0f}<br>%{z:+.2%}<extra></extra>", **grid,
        ), 2, 1,
    )  # fmt: skip
    fig.add_trace(
        go.Heatmap(
            z=np.where(seen, summed / np.maximum(pairs, 1), -1.0).round(2), zmin=-1, zmax=1, showscale=False,
            colorscale=[(0, theme.CLEAR), (0.49, theme.CLEAR), (0.5, theme.TILTED), (1, theme.EXACT)], opacity=0.85,
            name="summed", hovertemplate="query %{y:.0f}, key %{x:.0f}<br>%{z:.0%} key by key<extra></extra>", **grid,
        ), 2, 2,
    )  # fmt: skip
    _outline(fig, edges)
    axis = {"range": [0, tokens], "showgrid": False, "zeroline": False, "constrain": "domain", "nticks": 5}
    fig.update_xaxes(**axis)
    fig.update_yaxes(**axis | {"range": [tokens, 0]})
    for i in range(1, 5):
        fig.update_layout({f"yaxis{i}": {"scaleanchor": f"x{i}", "scaleratio": 1}})
    fig.update_layout(
        template=theme.TEMPLATE, height=780, uirevision="matrix", title=theme.title(finding, reading),
        margin={"t": theme.heading_height(finding, reading) + 34}, plot_bgcolor=BACKGROUND,
    )  # fmt: skip
    return fig


def _short(x: np.ndarray) -> np.ndarray:
    """Rounded to three significant digits: a page is sent every digit."""
    unit = 10.0 ** (2 - np.floor(np.log10(np.maximum(np.abs(x), 1e-12))))
    return np.rint(x * unit) / unit


def _with_holes(scale: str) -> list[tuple[float, str]]:
    """A scale of colours from FAINTEST to 1 that is clear below, for a grid from HOLE to 0."""
    first = np.log10(FAINTEST) / HOLE
    steps = np.linspace(0, 1, 11)
    colours = zip(1 - first * (1 - steps), sample_colorscale(scale, list(steps)), strict=True)
    return [(0, theme.CLEAR), (1 - first, theme.CLEAR), *colours]


def _ticks() -> dict:
    """A bar of colours whose steps are powers of ten, in percent."""
    steps = np.arange(round(np.log10(FAINTEST)), 1)
    return {"thickness": 12, "len": 0.46, "y": 1, "yanchor": "top", "outlinewidth": 0, "tickmode": "array",
            "tickvals": steps, "ticktext": [f"{100 * 10.0**step:g}%" for step in steps]}  # fmt: skip


def _both_ways() -> list[tuple[float, str]]:
    """Blue for too little, clear for right, orange for too much."""
    clear = "rgba(128, 128, 128, 0)"
    return [(0, theme.BLUE), (0.5, clear), (1, theme.VERMILION)]


def _outline(fig: go.Figure, edges: Sequence[tuple[float, float, float, float]]) -> None:
    """Outline blocks in every picture, in one trace a picture."""
    x, y = [], []
    for left, top, right, bottom in edges:
        x += [left, right, right, left, left, None]
        y += [top, top, bottom, bottom, top, None]
    for row, column in ((1, 1), (1, 2), (2, 1), (2, 2)):
        line = {"color": theme.RULE, "width": 1}
        edge = go.Scatter(
            x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="blocks"
        )
        fig.add_trace(edge, row, column)
