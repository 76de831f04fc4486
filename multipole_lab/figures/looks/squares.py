"""The squares of the expansion figure: where they stand, a field in one, and the map of which error is smaller."""

from __future__ import annotations

import numpy as np

from ..common import theme

# Three columns of square plots: the two ends of each in the figure's width; the colour bars take the rest.
COLUMNS = ((0.0, 0.28), (0.315, 0.595), (0.63, 0.91))
ROWS = ((0.74, 1.0), (0.39, 0.65), (0.0, 0.26))
QUERIES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 0))  # the squares of the plane of queries


def axes(row: int, column: int) -> tuple[str, str]:
    """Name the axes of the square at (row, column), plotly's way: x, x2, ... x6."""
    index = 3 * row + column + 1
    suffix = "" if index == 1 else str(index)
    return f"x{suffix}", f"y{suffix}"


def draw_field(parts, axis, values, name, row, column, coloraxis) -> None:
    """Fill one square with the field and its level lines, and lay out its axes and heading."""
    x, y = axes(row, column)
    parts["data"].append(
        {
            "type": "contour",
            "x": axis,
            "y": axis,
            "z": values,
            "coloraxis": coloraxis,
            "contours": {"showlines": True},
            "line": {"width": 0.6, "color": "rgba(255, 255, 255, 0.55)"},
            "ncontours": 14,
            "name": name,
            "hovertemplate": "query (%{x:,.2f}, %{y:,.2f})<br>" + name + ": %{z:,.3f}<extra></extra>",
            "xaxis": x,
            "yaxis": y,
        }
    )
    square(parts, row, column, name, (axis[0], axis[-1]))


def draw_nearer(parts, axis, origin, tilted) -> None:
    """Add the map of which error is smaller, and how many times, with a scale in words beside it."""
    x, y = axes(2, 0)
    times = np.log10(np.maximum(origin, 1e-9) / np.maximum(tilted, 1e-9)).clip(-2, 2)
    words = (
        "p, 100 times or more",
        "p, 10 times",
        "both alike",
        "the origin, 10 times",
        "the origin, 100 times or more",
    )
    clear = "rgba(128, 128, 128, 0.12)"
    parts["data"].append(
        {
            "type": "heatmap",
            "x": axis,
            "y": axis,
            "z": times,
            "zmin": -2,
            "zmax": 2,
            "colorscale": [(0, theme.CENTROID), (0.5, clear), (1, theme.TILTED)],
            "customdata": np.where(times > 0, "p", "the origin"),
            "text": (10 ** np.abs(times)).round(1),
            "hovertemplate": "query (%{x:,.2f}, %{y:,.2f})<br>%{customdata} is %{text} times nearer<extra></extra>",
            "name": "which is nearer",
            "xaxis": x,
            "yaxis": y,
            "colorbar": {
                "thickness": 11, "outlinewidth": 0, "x": COLUMNS[1][0] - 0.015, "xanchor": "left",
                "y": ROWS[2][1], "yanchor": "top", "len": 0.95 * (ROWS[2][1] - ROWS[2][0]), "lenmode": "fraction",
                "tickmode": "array", "tickvals": [2, 1, 0, -1, -2], "ticktext": words, "ypad": 0,
            },
        }
    )  # fmt: skip
    square(parts, 2, 0, "which is nearer", (axis[0], axis[-1]))


def square(parts, row, column, heading, limits) -> None:
    """Lay out one square plot with its heading; only the outer ones carry numbers, and those of queries zoom as one."""
    x, y = axes(row, column)
    (left, right), (bottom, top) = COLUMNS[column], ROWS[row]
    keys = (row, column) == (1, 0)
    across = "" if row == 0 else "key x" if keys else "query x"
    upward = "" if column else "key y" if keys else "query y"
    common = {"range": list(limits), "showgrid": False, "zeroline": False, "dtick": 2, "constrain": "domain"}
    along = {} if keys or (row, column) == (0, 0) else {"matches": "x"}
    up = {"scaleanchor": x} if keys or (row, column) == (0, 0) else {"matches": "y"}
    parts["layout"][x.replace("x", "xaxis")] = {
        **common,
        **along,
        "domain": [left, right],
        "anchor": y,
        "showticklabels": row > 0,
        "title": {"text": across},
    }
    parts["layout"][y.replace("y", "yaxis")] = {
        **common,
        **up,
        "domain": [bottom, top],
        "anchor": x,
        "constraintoward": "top",
        "showticklabels": column == 0,
        "title": {"text": upward},
    }
    parts["layout"]["annotations"].append(
        {
            "text": heading,
            "x": 0.5,
            "xref": f"{x} domain",
            "y": 1,
            "yref": f"{y} domain",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 13},
        }
    )
