"""The matrix of a head: exact attention, an approximation, their difference, and what is summed key by key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import sample_colorscale

from multipole_lab.suggesting import suggesting

from ..common import theme
from ..common.triangle import Rectangle, around

FAINTEST = 1e-5  # shares below this have the colour of nothing
HOLE = np.log10(FAINTEST) - 0.5  # where no query sees a key; None would be a gap, and takes long to send
_AXES = [{"xaxis": f"x{i}", "yaxis": f"y{i}"} for i in ("", 2, 3, 4)]
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
    edges: Sequence[Rectangle] = (),
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
    seen = pairs > 0
    difference = np.where(seen, approximate - exact, 0.0)
    most = max(float(np.quantile(np.abs(difference[seen]), 0.995)), 1e-9)
    where = "query %{y:,.0f}, key %{x:,.0f}<br>"
    logs = {"zmin": HOLE, "zmax": 0, "colorscale": _with_holes(theme.SEQUENTIAL)}
    pictures = [
        {"z": _logs(exact, seen), "customdata": _short(np.where(seen, exact, 0.0)), "name": "exactly",
         "hovertemplate": f"{where}exactly %{{customdata:.2%}}<extra></extra>", "colorbar": _ticks(), **logs},
        {"z": _logs(approximate, seen), "customdata": _short(np.where(seen, approximate, 0.0)), "name": name,
         "hovertemplate": f"{where}{name} %{{customdata:.2%}}<extra></extra>", "showscale": False, **logs},
        {"z": _short(difference), "zmin": -most, "zmax": most, "colorscale": _both_ways(), "name": "difference",
         "hovertemplate": f"{where}%{{z:+.2%}}<extra></extra>", "showscale": False},
        {"z": _short(np.where(seen, summed / np.maximum(pairs, 1), -1.0)), "zmin": -1, "zmax": 1, "opacity": 0.85,
         "colorscale": [(0, theme.CLEAR), (0.49, theme.CLEAR), (0.5, theme.TILTED), (1, theme.EXACT)],
         "name": "summed", "hovertemplate": f"{where}%{{z:.0%}} key by key<extra></extra>", "showscale": False},
    ]  # fmt: skip
    grid = {"x0": tokens / len(exact) / 2, "dx": tokens / len(exact)}
    grid |= {"y0": grid["x0"], "dy": grid["dx"]}
    grid["type"] = "heatmap"
    traces = [{**one, **grid, **axes} for one, axes in zip(pictures, _AXES, strict=True)]
    top = theme.heading_height(finding, reading) + 24
    layout = {"height": 780, "uirevision": "matrix", "title": theme.title(finding, reading),
              "margin": {"t": top, "l": 4, "r": 4}, "plot_bgcolor": BACKGROUND, "annotations": []}  # fmt: skip
    for i, words in enumerate(("exact", name, *_keys()), 1):
        right, low, own = (i - 1) % 2, (i - 1) // 2, "" if i == 1 else i
        axis = {
            "range": [0, tokens],
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
            "nticks": 5,
        }
        layout[f"xaxis{i}"] = axis | {"anchor": f"y{i}", "domain": [0.53 * right, 0.47 + 0.53 * right]}
        layout[f"yaxis{i}"] = axis | {
            "anchor": f"x{i}", "domain": [0.57 * (1 - low), 0.43 + 0.57 * (1 - low)], "range": [tokens, 0],
            "scaleanchor": f"x{i}", "scaleratio": 1, "showticklabels": not right, "constraintoward": "top",
        }  # fmt: skip
        layout["annotations"].append(
            {"text": words, "showarrow": False, "xref": f"x{own} domain", "x": 0.5, "yref": f"y{own} domain", "y": 1,
             "yanchor": "bottom", "font": {"size": 12}}
        )  # fmt: skip
    return theme.unchecked([*traces, *_outlines(edges)], layout)


def _keys() -> tuple[str, str]:
    """The headings of the lower squares, which say what their colours mean."""
    marked = [
        [(theme.VERMILION, "too much"), (theme.BLUE, "too little")],
        [(theme.EXACT, "key by key"), (theme.TILTED, "in clusters")],
    ]
    first, second = (
        "  ".join(f"<span style='color:{c}'>■</span> {words}" for c, words in row) for row in marked
    )
    return first, second


def _logs(share: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Powers of ten of the shares, and ``HOLE`` where there is nothing to see."""
    return np.where(seen, np.log10(np.maximum(share, FAINTEST)), HOLE).round(2)


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
    """A bar of colours between the rows, whose steps are powers of ten, in percent."""
    steps = np.arange(round(np.log10(FAINTEST)), 1)
    return {"orientation": "h", "thickness": 10, "len": 0.9, "x": 0.5, "y": 0.527, "yanchor": "top", "outlinewidth": 0,
            "ypad": 0, "tickmode": "array", "tickvals": steps,
            "ticktext": [f"{100 * 10.0**step:g}%" for step in steps]}  # fmt: skip


def _both_ways() -> list[tuple[float, str]]:
    """Blue for too little, clear for right, orange for too much."""
    clear = "rgba(128, 128, 128, 0)"
    return [(0, theme.BLUE), (0.5, clear), (1, theme.VERMILION)]


def _outlines(edges: Sequence[Rectangle]) -> list[dict]:
    """Outlines of blocks in every picture, in one trace a picture."""
    look = {
        **around(edges),
        "type": "scatter",
        "mode": "lines",
        "line": {"color": theme.RULE, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [{"name": "blocks", **axes, **look} for axes in _AXES]
