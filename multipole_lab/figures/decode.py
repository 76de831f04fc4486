"""Decoding over a clustered cache: which tokens each step read exactly, and how much attention those held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.suggesting import suggesting

from .common import theme

# Keys of opened clusters stand out from those that are always exact.
OPENED, ALWAYS = theme.ORANGE, theme.SKY


@suggesting
def decode(
    positions: Int[np.ndarray, " T"],
    chosen: Sequence[Int[np.ndarray, " M"]],
    weights: Sequence[Float[np.ndarray, " M"]],
    sinks: Int[np.ndarray, " T"],
    tails: Int[np.ndarray, " T"],
    mass: Float[np.ndarray, " T"],
    error: Float[np.ndarray, " T"],
    tokens: Sequence[str],
    step: int = 0,
) -> go.Figure:
    """Draw a row for each decoding step with the keys it read exactly, and below what that gave.

    How to read it: a row is one new token, and the text before it runs from left to right. The solid bands at both
    ends are always exact: the sinks (the first tokens) and the recent window. An orange tick is a key whose cluster
    was opened in this step, so that it was summed exactly as well. Everything between counted through the
    centroids alone. Ticks below each other are tokens that step after step finds important. The lines below show,
    for each step, the share of the softmax mass that the exact keys held, and the error of the output.

    Parameters
    ----------
    positions : [T]. Position in the text of each step's query.
    chosen : T arrays of positions: keys of opened clusters. weights : the same shape: exact softmax weights.
    sinks : [T]. First keys that are exact. tails : [T]. Keys from this position on are exact.
    mass : [T]. Share of the softmax mass on keys read exactly, 0 to 1. error : [T]. Relative squared error.
    tokens : the text, at least up to the last position.
    step : the step that the title describes, 0..T-1; it is framed.

    Raises
    ------
    ValueError : a step that does not exist.
    """
    steps = len(positions)
    if not 0 <= step < steps:
        raise ValueError(f"step: there are steps 0 to {steps - 1}, got {step}")
    finding, reading = _words(positions, chosen, weights, sinks, tails, mass, error, tokens, step)
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 680, "uirevision": "decode"})
    _draw_always(fig, positions, sinks, tails)
    _draw_opened(fig, chosen, weights, tokens)
    _draw_outcome(fig, positions, mass, error, tokens, step)
    _place(fig, positions, error, step)
    top = theme.heading_height(finding, reading) + 92  # four rows of the legend in a narrow window
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _words(positions, chosen, weights, sinks, tails, mass, error, tokens, step) -> tuple[str, str]:
    """Describe one step: how many keys were exact, what they held, and which of them weighed most."""
    length = int(positions[step]) + 1
    exact = len(chosen[step]) + int(sinks[step]) + length - int(tails[step])
    finding = (
        f"Step {step + 1} reads {min(exact, length):,} of {length:,} keys exactly; they hold {mass[step]:.1%} of its "
        f"attention. Error {theme.number(float(error[step]))}"
    )
    after = f"After “{theme.visible_token(tokens[positions[step]])}”."
    if len(chosen[step]) == 0:
        return finding, f"{after} No cluster was opened."
    best = chosen[step][np.argsort(-weights[step], kind="stable")]
    words = list(dict.fromkeys(f"“{theme.visible_token(tokens[i])}”" for i in best))[:5]
    return finding, f"{after} Heaviest of the opened clusters: {' '.join(words)}"


def _draw_always(fig, positions, sinks, tails) -> None:
    """Add the sinks and the recent window of each step as bands."""
    rows = np.arange(1, len(positions) + 1)
    for begin, width, words, shown in (
        (tails, positions + 1 - tails, "always exact", True),
        (np.zeros_like(sinks), sinks, "sinks", False),
    ):
        fig.add_trace(
            go.Bar(
                x=width, y=rows, base=begin, orientation="h", width=0.8,
                marker={"color": ALWAYS, "line": {"width": 0}},
                hovertemplate="step %{y}: always exact, keys: %{x:,}<extra></extra>",
                name=words, showlegend=shown,
            )
        )  # fmt: skip


def _draw_opened(fig, chosen, weights, tokens) -> None:
    """Add a tick for every key of an opened cluster, all steps in one trace."""
    rows = np.repeat(np.arange(1, len(chosen) + 1), [len(one) for one in chosen])
    place = np.concatenate([*chosen, np.empty(0, dtype=int)]).astype(int)
    fig.add_trace(
        go.Scatter(
            x=place,
            y=rows,
            mode="markers",
            marker={"symbol": "line-ns", "size": 9, "line": {"width": 1.5, "color": OPENED}, "color": OPENED},
            text=[theme.visible_token(tokens[i]) for i in place],
            customdata=np.concatenate([*weights, np.empty(0)]),
            hovertemplate="<b>%{text}</b>, position %{x:,}<br>step %{y}: weight %{customdata:.2%}<extra></extra>",
            name="in clusters opened in this step",
        )
    )


def _draw_outcome(fig, positions, mass, error, tokens, step) -> None:
    """Add the share of attention that was read exactly, the error, and a mark on the step that the title describes."""
    rows = np.arange(1, len(positions) + 1)
    said = [theme.visible_token(tokens[i]) for i in positions]
    for values, words, colour, dash, axis in (
        (mass, "attention read exactly", theme.GREEN, "solid", "y2"),
        (np.maximum(error, 1e-16), "error (right)", theme.PURPLE, "dot", "y3"),
    ):
        fig.add_trace(
            go.Scatter(
                x=rows, y=values, text=said, mode="lines+markers", line={"color": colour, "width": 2, "dash": dash},
                marker={"size": [11 if i == step else 5 for i in range(len(rows))], "color": colour,
                        "opacity": 1, "line": {"width": 0}},
                hovertemplate="step %{x}, after %{text}<br>" + words.split(" (")[0] + " %{y:,.3~r}<extra></extra>",
                name=words, xaxis="x2", yaxis=axis,
            )
        )  # fmt: skip


def _place(fig, positions, error, step) -> None:
    """Put the rows above, first step on top, and the lines below; frame the step that the title describes."""
    low, high = (float(np.log10(max(x, 1e-16))) for x in (error.min(), error.max()))
    fig.add_shape(
        type="rect", x0=0, x1=1, xref="x domain", y0=step + 0.5, y1=step + 1.5, yref="y",
        line={"color": theme.TEXT, "width": 1.5}, name="step",
    )  # fmt: skip
    fig.update_layout(
        barmode="overlay",
        xaxis={"title": {"text": "position of the key in the text (tokens)"}, "range": [0, int(positions[-1]) + 1]},
        yaxis={"title": {"text": "step"}, "range": [len(positions) + 0.7, 0.3], "domain": [0.42, 1],
               "showgrid": False, "zeroline": False},
        xaxis2={"title": {"text": "step"}, "anchor": "y2", "showgrid": False, "range": [0.5, len(positions) + 0.5]},
        yaxis2={"title": {"text": "share"}, "domain": [0, 0.26], "anchor": "x2", "tickformat": "~p", "nticks": 4},
        yaxis3={"title": {"text": "error"}, "overlaying": "y2", "side": "right", "type": "log", "dtick": 1,
                "tickformat": ",~g", "showgrid": False, "anchor": "x2",
                "range": [float(np.floor(low - 0.3)), float(np.ceil(high + 0.2))]},
        legend={"y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
