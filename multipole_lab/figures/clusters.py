"""Where the keys of one head lie, which of them share a cluster, and how many each cluster holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.printing import count
from multipole_lab.suggesting import suggesting

from .common import theme

_KEY = "%{hovertext}<extra></extra>"
_QUERY = "centroid of query cluster %{customdata[0]}<br>its queries: %{customdata[1]:,}<extra></extra>"
_BAR = "cluster %{x}<br>%{customdata}<extra></extra>"
_PALETTE = (*theme.MANY, theme.GRID)


@suggesting
def clusters(
    points: Float[np.ndarray, "N dims"],
    labels: Int[np.ndarray, " N"],
    tokens: Sequence[str],
    counts: Int[np.ndarray, " C"],
    colours: Int[np.ndarray, " C"],
    limit: int | None = None,
    queries: Float[np.ndarray, "Cq dims"] | None = None,
    origin: Float[np.ndarray, " dims"] | None = None,
    query_counts: Int[np.ndarray, " Cq"] | None = None,
    explained: Sequence[float] | None = None,
    spotlight: int | None = None,
) -> go.Figure:
    """Draw keys on their principal axes, coloured by cluster, above a bar chart of the cluster sizes.

    How to read it: one dot is one key (one token as this head sees it). Dots of one colour that lie together
    are one cluster; of more than 16 clusters far-apart ones share a colour. Attention will treat each as one body.
    White diamonds are the centroids of the query clusters; the cross is the origin. A bar is a cluster,
    as tall as it has keys; the dashed line is the cap that no cluster may pass. A cluster has one number everywhere:
    1 is the largest.

    Parameters
    ----------
    points : [N, 2] or [N, 3]. Keys on the principal axes; the number of columns chooses the picture.
    labels : [N]. The cluster of each key.
    tokens : N strings, shown on hover.
    counts : [C]. Keys in each cluster.
    colours : [C]. An index into the palette for each cluster.
    limit : the largest size a cluster may have; None draws no line.
    queries : [Cq, 2] or [Cq, 3]. Query centroids on the same axes.
    origin : [2] or [3]. Where the zero vector lies on the same axes.
    query_counts : [Cq]. Queries in each query cluster.
    explained : the share of the variance that each axis carries, 0 to 1.
    spotlight : one cluster to show alone, the others faded.
    """
    dims = points.shape[1]
    if dims not in (2, 3):
        raise ValueError(f"points: need 2 or 3 columns, got {dims}")
    finding, reading = _words(labels, tokens, counts, limit, spotlight)
    traces = [_keys(points, labels, tokens, counts, colours, spotlight)]
    if queries is not None:
        traces.append(_queries(queries, query_counts))
    if origin is not None:
        traces.append(_origin(origin))
    traces.append(_sizes(counts, colours, spotlight))
    layout = {"height": 640, "uirevision": f"{dims}d",
              "title": theme.title(finding, reading), "margin": {"t": theme.heading_height(finding, reading)},
              **_axes(dims, explained), **_cap(limit)}  # fmt: skip
    return theme.unchecked(traces, layout)


def _words(labels, tokens, counts, limit, spotlight) -> tuple[str, str]:
    """Say what this picture shows: which words the chosen cluster collects, or how even the sizes are."""
    filled = int((counts > 0).sum())
    if spotlight is not None:
        members = np.flatnonzero(labels == spotlight)
        words, times = np.unique([theme.visible_token(tokens[i]) for i in members], return_counts=True)
        common = [words[i] for i in np.argsort(-times, kind="stable")[:5]]
        number = _numbers(counts)[spotlight]
        return (
            f"Cluster {number}: {count(len(members), 'key')}, {count(len(words), 'different token')}",
            "Most frequent: " + "  ".join(common),
        )
    finding = f"{len(labels):,} keys become {filled:,} clusters of about {len(labels) / max(filled, 1):,.0f}"
    if limit is not None:
        full = int((counts >= limit).sum())
        finding += f"; {full:,} {'is' if full == 1 else 'are'} filled to the cap"
    return (
        finding,
        "A dot is a key, coloured by cluster. ◇ query centroids. ✚\u00a0origin.",
    )


def _numbers(counts) -> np.ndarray:
    """The number of every cluster as a reader sees it: 1 is the largest."""
    numbers = np.empty(len(counts), dtype=int)
    numbers[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return numbers


def _keys(points, labels, tokens, counts, colours, spotlight) -> dict:
    """One trace with all the keys: one trace updates faster than a trace per cluster."""
    shade = _shade(colours[labels], labels, spotlight)
    inside = [
        f"in cluster {number}, with {count(int(size), 'key')}"
        for number, size in zip(_numbers(counts), counts, strict=True)
    ]
    words = [
        f"<b>{theme.visible_token(token)}</b><br>position {i:,}<br>{inside[label]}"
        for i, (token, label) in enumerate(zip(tokens, labels, strict=True))
    ]
    common = {
        "mode": "markers",
        "hovertext": words,  # a mark with data of its own takes plotly a tenth longer
        "hovertemplate": _KEY,
        "name": "keys",
        "showlegend": False,
    }
    size = {"size": 3, "opacity": 0.9} if points.shape[1] == 3 else {"size": 5.5, "opacity": 0.8}
    return {**_at(points), "marker": {**size, **shade}, **common}


def _at(points) -> dict:
    """A trace in the plane or in space, and where its marks are."""
    kind = "scatter3d" if points.shape[1] == 3 else "scatter"
    return {"type": kind, **dict(zip("xyz", points.T, strict=False))}


def _shade(colours, clusters, spotlight) -> dict:
    """Colour marks by palette index, as thousands of them need it."""
    scale = {"colorscale": theme.palette_scale(_PALETTE), "cmin": -0.5, "cmax": len(_PALETTE) - 0.5}
    return {"color": _index(colours, clusters, spotlight), **scale, "showscale": False}


def _named(colours, clusters, spotlight) -> list[str]:
    """Colour bars by name: to plotly.js a bar's number is no colour, and each one costs a warning on the console."""
    return theme.cycle(_PALETTE, _index(colours, clusters, spotlight))


def _index(colours, clusters, spotlight) -> np.ndarray:
    """Indices into the palette; all but the spotlit cluster get the faint last one."""
    index = colours % len(theme.MANY)
    return index if spotlight is None else np.where(clusters == spotlight, index, len(theme.MANY))


def _queries(queries, query_counts) -> dict:
    """The query centroids as white diamonds with a black rim: other than keys in shape too."""
    look = {"color": "#ffffff", "line": {"width": 1.5, "color": "#000000"}}
    sizes = np.zeros(len(queries), dtype=int) if query_counts is None else query_counts
    common = {
        "mode": "markers",
        "customdata": np.stack([np.arange(1, len(queries) + 1), sizes], axis=1),
        "hovertemplate": _QUERY,
        "name": "query centroids",
        "showlegend": False,
    }
    marker = {"symbol": "diamond", "size": 6 if queries.shape[1] == 3 else 9, **look}
    return {**_at(queries), "marker": marker, **common}


def _origin(origin) -> dict:
    """The zero vector, around which centroid replacement expands, to be compared with the queries."""
    common = {
        "mode": "markers",
        "marker": {
            "symbol": "cross",
            "size": 5 if len(origin) == 3 else 11,
            "color": "#ffffff",
            "line": {"width": 1.5, "color": "#000000"},
        },
        "hovertemplate": "the origin: the zero vector<extra></extra>",
        "name": "origin",
        "showlegend": False,
    }
    return {**_at(origin[None]), **common}


def _sizes(counts, colours, spotlight) -> dict:
    """The bars, largest cluster first."""
    order = np.argsort(-counts, kind="stable")
    return {
        "type": "bar",
        "x": np.arange(1, len(counts) + 1),
        "y": counts[order],
        "customdata": [count(int(size), "key") for size in counts[order]],
        "hovertemplate": _BAR,
        "marker": {"color": _named(colours[order], order, spotlight), "line": {"width": 0}},
        "name": "cluster sizes",
        "showlegend": False,
        "xaxis": "x2",
        "yaxis": "y2",
    }


def _cap(limit) -> dict:
    """The cap as a dashed line with its number, where there is one."""
    if limit is None:
        return {}
    line = {
        "type": "line", "x0": 0, "x1": 1, "xref": "x2 domain", "y0": limit, "y1": limit, "yref": "y2", "name": "cap",
        "line": {"color": theme.VERMILION, "width": 1.5, "dash": "dash"},
    }  # fmt: skip
    words = {
        "text": f"cap: {limit:,} keys", "x": 1, "xref": "x2 domain", "xanchor": "right", "y": limit, "yref": "y2",
        "yanchor": "bottom", "showarrow": False, "font": {"color": theme.VERMILION},
    }  # fmt: skip
    return {"shapes": [line], "annotations": [words]}


def _axes(dims, explained) -> dict:
    """The scatter in the upper two thirds and the bars below it, with the names of the axes."""
    names = [f"{'axis' if dims == 3 else 'principal axis'} {i + 1}" for i in range(dims)]
    if explained is not None:
        names = [f"{name} ({share:.0%})" for name, share in zip(names, explained, strict=False)]
    upper, lower = [0.33, 1], [0, 0.2]
    bars = {
        "xaxis2": {"title": {"text": "cluster, largest first"}, "anchor": "y2", "showgrid": False},
        "yaxis2": {"title": {"text": "keys"}, "domain": lower, "anchor": "x2", "rangemode": "tozero"},
        "bargap": 0.15,
    }
    if dims == 3:
        camera = {"eye": {"x": 1.35, "y": 1.35, "z": 0.8}, "center": {"x": 0, "y": 0, "z": -0.15}}
        axes = {f"{a}axis": {"title": {"text": name}} for a, name in zip("xyz", names, strict=True)}
        place = {"domain": {"x": [0, 1], "y": upper}, "aspectmode": "data", "camera": camera}
        hidden = {"xaxis": {"visible": False}, "yaxis": {"visible": False, "domain": upper}}
        return {"scene": {**axes, **place}, **hidden, **bars}
    shown = {
        "xaxis": {"title": {"text": names[0]}, "visible": True, "anchor": "y"},
        "yaxis": {"title": {"text": names[1]}, "visible": True, "domain": upper, "anchor": "x"},
    }
    return {**shown, **bars}
