"""Bytes that a rank sends against the length of the sequence: summaries beside all keys and values."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.suggesting import suggesting

from .common import theme
from .common.arrays import check_equally_many


@suggesting
def parallel(
    lengths: Int[np.ndarray, " L"],
    muse_bytes: Float[np.ndarray, " L"],
    ring_bytes: Float[np.ndarray, " L"],
    ranks: int,
    detail: str = "",
) -> go.Figure:
    """Draw what one rank sends in context-parallel MuSe and in ring attention.

    How to read it: both axes are logarithmic. Ring attention passes all keys and values through every rank, so its
    line climbs with the sequence. MuSe sends query centroids and gets summaries of key clusters back, as many as
    there are clusters, so without a near field its line is level. Where they cross MuSe begins to send less.

    Parameters
    ----------
    lengths : [L]. Tokens of the whole sequence, ascending, at least one.
    muse_bytes, ring_bytes : [L]. Bytes that the busiest rank sends, counted or by formula.
    ranks : how many processes share the sequence.
    detail : what was counted, in words.

    Raises
    ------
    ValueError : no lengths, or arrays of different lengths.
    """
    check_equally_many(1, lengths=lengths, muse_bytes=muse_bytes, ring_bytes=ring_bytes)
    finding = _finding(lengths, muse_bytes, ring_bytes)
    reading = f"{ranks} ranks; bytes that the busiest one sends. {detail}".strip()
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 440, "uirevision": "parallel"})
    for sent, words, colour, symbol in (
        (ring_bytes, "ring attention: all keys and values", theme.EXACT, "circle"),
        (muse_bytes, "MuSe: centroids and summaries", theme.TILTED, "square"),
    ):
        fig.add_trace(
            go.Scatter(
                x=lengths,
                y=sent,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"symbol": symbol, "size": 9},
                name=words,
                hovertemplate="%{x:,} tokens: %{y:,} bytes<extra></extra>",
            )
        )
    ticks = {"tickvals": list(map(int, lengths)), "ticktext": [f"{int(n):,}" for n in lengths]}
    fig.update_layout(
        title=theme.title(finding, reading),
        margin={"t": theme.heading_height(finding, reading) + 34},
        xaxis={
            "title": {"text": "length of the sequence (tokens)"},
            "type": "log",
            "showgrid": False,
            **ticks,
        },
        yaxis={
            "title": {"text": "bytes sent by a rank"},
            "type": "log",
            "tickformat": "~s",
            "dtick": "D2",
            "range": _decades(np.concatenate([muse_bytes, ring_bytes])),
        },
        legend={"y": 1.0, "yanchor": "bottom"},
    )
    return fig


def _finding(lengths, muse_bytes, ring_bytes) -> str:
    """State which of the two sends less at the longest length, and from which length measured on MuSe does."""
    ratio = float(ring_bytes[-1] / muse_bytes[-1])
    longest = f"At {lengths[-1]:,} tokens"
    if ratio <= 1:
        return f"{longest} a rank sends {theme.number(1 / ratio)} times as much in MuSe as in ring attention"
    claim = f"{longest} a rank sends {theme.number(ratio)} times less in MuSe than in ring attention"
    more = np.flatnonzero(np.asarray(muse_bytes) >= np.asarray(ring_bytes))
    return f"{claim}; at {lengths[more[-1]]:,} it still sends more" if len(more) else claim


def _decades(values) -> list[float]:
    """The logarithmic range of the values with space to spare, a decade at least: a level line is no noise."""
    low, high = np.log10(np.min(values)), np.log10(np.max(values))
    spare = max(0.15, (1 - (high - low)) / 2)
    return [float(low - spare), float(high + spare)]
