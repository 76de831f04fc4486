"""Where the keys of one head lie, which of them share a cluster, and how many each cluster holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.printing import count
from multipole_lab.suggesting import suggesting

from .common import theme

_KEY = (
    "<b>%{text}</b><br>position %{customdata[0]:,}<br>"
    "in cluster %{customdata[1]}, with %{customdata[2]}<extra></extra>"
)
_QUERY = "centroid of query cluster %{customdata[0]}<br>its queries: %{customdata[1]:,}<extra></extra>"
_BAR = "cluster %{x}<br>%{customdata}<extra></extra>"


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
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 640, "uirevision": f"{dims}d"})
    _draw_keys(fig, points, labels, tokens, counts, colours, spotlight)
    if queries is not None:
        _draw_queries(fig, queries, query_counts)
    if origin is not None:
        _draw_origin(fig, origin)
    _draw_sizes(fig, counts, colours, limit, spotlight)
    _place(fig, dims, explained, theme.heading_height(finding, reading))
    fig.update_layout(title=theme.title(finding, reading))
    return fig


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
        "A dot is a key, coloured by cluster. ◇ query centroids. ✚ origin.",
    )


def _numbers(counts) -> np.ndarray:
    """The number of every cluster as a reader sees it: 1 is the largest."""
    numbers = np.empty(len(counts), dtype=int)
    numbers[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return numbers


def _draw_keys(fig, points, labels, tokens, counts, colours, spotlight) -> None:
    """Add one trace with all the keys: one trace updates faster than a trace per cluster."""
    shade = _shade(colours[labels], labels, spotlight)
    sizes = np.array([count(int(size), "key") for size in counts])[labels]
    common = {
        "mode": "markers",
        "text": [theme.visible_token(token) for token in tokens],
        "customdata": np.array(
            [
                [i, number, size]
                for i, (number, size) in enumerate(zip(_numbers(counts)[labels], sizes, strict=True))
            ],
            dtype=object,
        ),
        "hovertemplate": _KEY,
        "name": "keys",
        "showlegend": False,
    }
    x, y = points[:, 0], points[:, 1]
    if points.shape[1] == 3:
        marker = {"size": 3, "opacity": 0.9, **shade}
        fig.add_trace(go.Scatter3d(x=x, y=y, z=points[:, 2], marker=marker, **common))
    else:
        marker = {"size": 5.5, "opacity": 0.8, **shade}
        fig.add_trace(go.Scatter(x=x, y=y, marker=marker, **common))


def _shade(colours, clusters, spotlight) -> dict:
    """Colour marks by palette index; all but the spotlit cluster get the faint last colour."""
    palette = (*theme.MANY, theme.GRID)
    faint = len(palette) - 1
    index = colours % faint
    if spotlight is not None:
        index = np.where(clusters == spotlight, index, faint)
    scale = theme.palette_scale(palette)
    return {"color": index, "colorscale": scale, "cmin": -0.5, "cmax": faint + 0.5, "showscale": False}


def _draw_queries(fig, queries, query_counts) -> None:
    """Add the query centroids as white diamonds with a black rim: other than keys in shape too."""
    look = {"color": "#ffffff", "line": {"width": 1.5, "color": "#000000"}}
    sizes = np.zeros(len(queries), dtype=int) if query_counts is None else query_counts
    common = {
        "mode": "markers",
        "customdata": np.stack([np.arange(1, len(queries) + 1), sizes], axis=1),
        "hovertemplate": _QUERY,
        "name": "query centroids",
        "showlegend": False,
    }
    x, y = queries[:, 0], queries[:, 1]
    if queries.shape[1] == 3:
        marker = {"symbol": "diamond", "size": 6, **look}
        fig.add_trace(go.Scatter3d(x=x, y=y, z=queries[:, 2], marker=marker, **common))
    else:
        marker = {"symbol": "diamond", "size": 9, **look}
        fig.add_trace(go.Scatter(x=x, y=y, marker=marker, **common))


def _draw_origin(fig, origin) -> None:
    """Mark the zero vector, around which centroid replacement expands, to be compared with the queries."""
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
    if len(origin) == 3:
        fig.add_trace(go.Scatter3d(x=origin[:1], y=origin[1:2], z=origin[2:], **common))
    else:
        fig.add_trace(go.Scatter(x=origin[:1], y=origin[1:], **common))


def _draw_sizes(fig, counts, colours, limit, spotlight) -> None:
    """Add the bars, largest cluster first, and the cap as a dashed line with its number."""
    order = np.argsort(-counts, kind="stable")
    fig.add_trace(
        go.Bar(
            x=np.arange(1, len(counts) + 1),
            y=counts[order],
            customdata=[count(int(size), "key") for size in counts[order]],
            hovertemplate=_BAR,
            marker={**_shade(colours[order], order, spotlight), "line": {"width": 0}},
            name="cluster sizes",
            showlegend=False,
            xaxis="x2",
            yaxis="y2",
        )
    )
    if limit is None:
        return
    rule = {"color": theme.VERMILION, "width": 1.5, "dash": "dash"}
    fig.add_shape(
        type="line", x0=0, x1=1, xref="x2 domain", y0=limit, y1=limit, yref="y2", line=rule, name="cap"
    )
    fig.add_annotation(
        text=f"cap: {limit:,} keys",
        x=1,
        xref="x2 domain",
        xanchor="right",
        y=limit,
        yref="y2",
        yanchor="bottom",
        showarrow=False,
        font={"color": theme.VERMILION},
    )


def _place(fig, dims, explained, top) -> None:
    """Put the scatter in the upper three quarters and the bars below it; name the axes."""
    names = [f"{'axis' if dims == 3 else 'principal axis'} {i + 1}" for i in range(dims)]
    if explained is not None:
        names = [f"{name} ({share:.0%})" for name, share in zip(names, explained, strict=False)]
    upper, lower = [0.33, 1], [0, 0.2]
    if dims == 3:
        camera = {"eye": {"x": 1.35, "y": 1.35, "z": 0.8}, "center": {"x": 0, "y": 0, "z": -0.15}}
        axes = {f"{a}axis": {"title": {"text": name}} for a, name in zip("xyz", names, strict=True)}
        fig.update_layout(
            scene={**axes, "domain": {"x": [0, 1], "y": upper}, "aspectmode": "data", "camera": camera}
        )
        fig.update_layout(xaxis={"visible": False}, yaxis={"visible": False, "domain": upper})
    else:
        fig.update_layout(
            xaxis={"title": {"text": names[0]}, "visible": True, "anchor": "y"},
            yaxis={"title": {"text": names[1]}, "visible": True, "domain": upper, "anchor": "x"},
        )
    fig.update_layout(
        xaxis2={"title": {"text": "cluster, largest first"}, "anchor": "y2", "showgrid": False},
        yaxis2={"title": {"text": "keys"}, "domain": lower, "anchor": "x2", "rangemode": "tozero"},
        bargap=0.15,
        margin={"t": top},
    )
