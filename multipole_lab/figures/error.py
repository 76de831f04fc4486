"""How wrong an approximation is: head by head, position by position, and at which words most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.suggesting import suggesting

from .common import theme
from .common.arrays import check_equally_many

_ROWS = 10  # lines of the list of words


class WorstToken(NamedTuple):
    """A token of large error: where it stands, its error, and the text around it."""

    position: int
    error: float
    before: str
    token: str
    after: str


@suggesting
def error(
    rse: Float[np.ndarray, " H"],
    head: int,
    positions: Int[np.ndarray, " P"],
    by_position: Float[np.ndarray, " P"],
    tokens: Sequence[str],
    worst: Sequence[WorstToken] = (),
) -> go.Figure:
    """Draw the error of every head, where in the sequence one head's error sits, and its ten worst tokens.

    How to read it: a dot is a head; 10% means that the error's energy is a tenth of the output's, and lower is
    better; each line of the grid is ten times the one below. The line shows, for the highlighted head, the same
    quantity at each place in the text: flat means that no place is special. Below are the tokens at which it is
    largest, bold, in their sentences: what do they have in common?

    Parameters
    ----------
    rse : [H]. Relative squared error of each head; NaN where it is not known yet.
    head : the head that the line and the words show.
    positions : [P]. The start of each span of the sequence that the line averages over.
    by_position : [P]. Squared error there, relative to the head's mean squared output.
    tokens : P strings: the worst token of each span, for the hover.
    worst : at most ten tokens of that head, the worst one first.

    Raises
    ------
    ValueError : arrays of different lengths, a head that is not there.
    """
    check_equally_many(positions=positions, by_position=by_position, tokens=tokens)
    if head not in range(len(rse)):
        raise ValueError(f"head is {head}; there are heads 0 to {len(rse) - 1}")
    finding, reading = _words(rse, head)
    top = theme.heading_height(finding, reading) + 12
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 720, "uirevision": "error"})
    _draw_heads(fig, rse, head)
    _draw_positions(fig, positions, by_position, tokens, float(rse[head]))
    _draw_worst(fig, worst, head)
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top, "r": 24})
    return fig


def _words(rse, head) -> tuple[str, str]:
    """State the mean over heads and the spread between them."""
    reading = f"Below: head {head}, and where its error sits. Click on a dot to see another head."
    if np.isnan(rse).any():
        return f"Head {head}: error {theme.percent(float(rse[head]))}; measuring the other heads", reading
    best, worst = int(np.argmin(rse)), int(np.argmax(rse))
    finding = f"Mean error {theme.percent(float(rse.mean()))} of the output's squared length"
    if len(rse) > 1:
        finding += f"; head {best} is easiest ({theme.percent(float(rse[best]))}), "
        finding += f"head {worst} hardest ({theme.percent(float(rse[worst]))})"
    return finding, reading


def _draw_heads(fig, rse, head) -> None:
    """Add a dot per head on a logarithmic scale, the chosen one in the accent colour, with its percent."""
    shade = [theme.TILTED if h == head else theme.SKY for h in range(len(rse))]
    fig.add_trace(
        go.Scatter(
            x=np.arange(len(rse)),
            y=np.maximum(rse, 1e-16),
            text=["" if np.isnan(value) else theme.percent(float(value)) for value in rse],
            mode="markers+text",
            textposition="top center",
            textfont={"size": 11},
            cliponaxis=False,
            marker={"color": shade, "size": [17 if h == head else 13 for h in range(len(rse))]},
            hovertemplate="head %{x}<br>relative squared error %{text}<br>click to look at it<extra></extra>",
            name="error of each head",
            showlegend=False,
        )
    )
    low = 10.0 ** np.floor(np.log10(max(float(np.nanmin(rse)), 1e-16)) - 0.1)
    high = max(float(np.nanmax(rse)) * 2, low * 10)
    fig.update_layout(
        xaxis={
            "title": {"text": "head"},
            "dtick": 1,
            "anchor": "y",
            "zeroline": False,
            "range": [-0.6, len(rse) - 0.4],
        },
        yaxis={
            "title": {"text": "rel. squared error"},
            "type": "log",
            "range": [float(np.log10(low)), float(np.log10(high))],
            "dtick": 1,
            "tickformat": "~%",
            "domain": [0.75, 1],
        },
    )


def _draw_positions(fig, positions, by_position, tokens, level) -> None:
    """Add the error along the sequence, and the head's own mean as a dotted rule to compare with."""
    fig.add_trace(
        go.Scatter(
            x=positions,
            y=np.maximum(by_position, 1e-16),
            mode="lines",
            line={"color": theme.TILTED, "width": 1.8, "shape": "hv"},
            text=[theme.visible_token(token) for token in tokens],
            hovertemplate="from position %{x:,}<br>error %{y:.2~%}<br>worst token: %{text}<extra></extra>",
            name="error along the text",
            showlegend=False,
            xaxis="x2",
            yaxis="y2",
        )
    )
    rule = {"color": theme.TEXT, "width": 1, "dash": "dot"}
    fig.add_shape(type="line", x0=0, x1=1, xref="x2 domain", y0=level, y1=level, yref="y2", line=rule)
    fig.update_layout(
        xaxis2={
            "title": {"text": "position of the query in the text (tokens)"},
            "anchor": "y2",
            "ticks": "outside",
        },
        yaxis2={
            "title": {"text": "error there"},
            "ticks": "outside",
            "type": "log",
            "dtick": "D2",  # 1, 2 and 5: all digits would stand on each other
            "tickformat": "~%",
            "domain": [0.44, 0.62],
            "anchor": "x2",
        },
    )


def _draw_worst(fig, worst, head) -> None:
    """Add a list: percent on the left, the token in its sentence on the right, more of it in the hover."""
    lines = [
        (one, _plain(one.token) if one.token.strip() else theme.visible_token(one.token))
        for one in worst[:_ROWS]
    ]
    around = [(_plain(one.before), _plain(one.after)) for one, _ in lines]
    short = [
        f"…{before[-18:]}<b style='color:{theme.VERMILION}'>{token}</b>{after[:14]}…"  # bold line ends look plain
        for (_, token), (before, after) in zip(lines, around, strict=True)
    ]
    long = [
        f"…{before}<b>{token}</b>{after}…" for (_, token), (before, after) in zip(lines, around, strict=True)
    ]
    columns = (
        (0.13, [theme.percent(one.error) for one, _ in lines], "middle left", "error of the worst tokens"),
        (0.15, short, "middle right", "worst tokens"),
    )
    for x, text, place, name in columns:
        fig.add_trace(
            go.Scatter(
                x=np.full(len(lines), x),
                y=np.arange(len(lines)),
                text=text,
                customdata=[
                    f"token {one.position:,}<br>{words}" for (one, _), words in zip(lines, long, strict=True)
                ],
                mode="text",
                textposition=place,
                textfont={"size": 12},
                hovertemplate="%{customdata}<extra></extra>",
                name=name,
                showlegend=False,
                xaxis="x3",
                yaxis="y3",
            )
        )
    off = {"visible": False, "fixedrange": True}
    fig.update_layout(
        xaxis3={**off, "range": [0, 1], "anchor": "y3"},
        yaxis3={**off, "range": [_ROWS - 0.5, -0.5], "domain": [0, 0.29], "anchor": "x3"},
    )
    fig.add_annotation(
        text=f"Where head {head} is most wrong, word by word", x=0, xref="paper", xanchor="left", y=0.295, yref="paper",
        yanchor="bottom", showarrow=False,
    )  # fmt: skip


def _plain(text: str) -> str:
    """A piece of text on one line, with marks for line ends, as HTML."""
    return theme.visible_token(text).replace("␣", " ")
