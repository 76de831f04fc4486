"""How wrong an approximation is: head by head, position by position, and beside the exact output itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.suggesting import suggesting

from .common import theme


@suggesting
def error(
    rse: Float[np.ndarray, " H"],
    head: int,
    positions: Int[np.ndarray, " P"],
    by_position: Float[np.ndarray, " P"],
    tokens: Sequence[str],
    rows: Int[np.ndarray, " R"],
    exact: Float[np.ndarray, "R Dv"],
    approx: Float[np.ndarray, "R Dv"],
    name: str = "approximate",
) -> go.Figure:
    """Draw the error of every head, where in the sequence one head's error sits, and its output both ways.

    How to read it: a bar is a head; 0.1 means that the error's energy is a tenth of the output's, and
    lower is better. The line shows, for the highlighted head, the same quantity at each place in the text:
    flat means that no place is special. The two strips are the output itself, a row per channel and a column
    per token, exact above approximate, in the same colours: they should look alike.

    Parameters
    ----------
    rse : [H]. Relative squared error of each head; NaN where it is not known yet.
    head : the head that the line and the strips show.
    positions : [P]. The start of each span of the sequence that the line averages over.
    by_position : [P]. Squared error there, relative to the head's mean squared output.
    tokens : P strings: the worst token of each span, for the hover.
    rows : [R]. The positions that the strips show.
    exact, approx : [R, Dv]. The output at those positions.
    name : the approximation, in words.
    """
    finding, reading = _words(rse, head)
    top = theme.heading_height(finding, reading) + 12
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 740, "uirevision": "error"})
    _draw_heads(fig, rse, head)
    _draw_positions(fig, positions, by_position, tokens, float(rse[head]))
    _draw_outputs(fig, rows, exact, approx, name)
    span = [int(rows[0]), int(rows[-1])]  # one span of text for all three pictures of it
    fig.update_layout({f"xaxis{i}_range": span for i in (2, 3, 4)})
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _words(rse, head) -> tuple[str, str]:
    """State the mean over heads and the spread between them."""
    reading = f"Below: head {head}, where its error sits, and its output both ways."
    if np.isnan(rse).any():
        return f"Head {head}: error {theme.number(float(rse[head]))}; measuring the other heads", reading
    best, worst = int(np.argmin(rse)), int(np.argmax(rse))
    finding = f"Mean error {theme.number(float(rse.mean()))} of the output's squared length"
    if len(rse) > 1:
        finding += f"; head {best} is easiest ({theme.number(float(rse[best]))}), "
        finding += f"head {worst} hardest ({theme.number(float(rse[worst]))})"
    return finding, reading


def _draw_heads(fig, rse, head) -> None:
    """Add a bar per head on a logarithmic scale, the chosen one in the accent colour, with its number."""
    shade = [theme.TILTED if h == head else theme.SKY for h in range(len(rse))]
    fig.add_trace(
        go.Bar(
            x=np.arange(len(rse)),
            y=np.maximum(rse, 1e-16),
            text=["" if np.isnan(value) else theme.number(float(value)) for value in rse],
            textposition="outside",
            textfont={"size": 11},
            constraintext="none",
            textangle=0,
            cliponaxis=False,
            marker={"color": shade, "line": {"width": 0}},
            hovertemplate="head %{x}<br>relative squared error %{text}<extra></extra>",
            name="error of each head",
            showlegend=False,
        )
    )
    low = 10.0 ** np.floor(np.log10(max(float(np.nanmin(rse)), 1e-16)) - 0.3)
    high = max(float(np.nanmax(rse)) * 2, low * 10)
    fig.update_layout(
        xaxis={"title": {"text": "head"}, "dtick": 1, "showgrid": False, "anchor": "y"},
        yaxis={
            "title": {"text": "rel. squared error"},
            "type": "log",
            "range": [float(np.log10(low)), float(np.log10(high))],
            "dtick": 1,
            "tickformat": "~g",
            "domain": [0.74, 1],
        },
        bargap=0.3,
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
            hovertemplate="from position %{x:,}<br>error %{y:.2g}<br>worst token: %{text}<extra></extra>",
            name="error along the text",
            showlegend=False,
            xaxis="x2",
            yaxis="y2",
        )
    )
    rule = {"color": theme.TEXT, "width": 1, "dash": "dot"}
    fig.add_shape(type="line", x0=0, x1=1, xref="x2 domain", y0=level, y1=level, yref="y2", line=rule)
    fig.update_layout(
        xaxis2={"title": {"text": "position of the query in the text (tokens)"}, "anchor": "y2"},
        yaxis2={
            "title": {"text": "error there"},
            "type": "log",
            "dtick": "D2",  # 1, 2 and 5: all digits would stand on each other
            "tickformat": "~g",
            "domain": [0.39, 0.61],
            "anchor": "x2",
        },
    )


def _draw_outputs(fig, rows, exact, approx, name) -> None:
    """Add the two strips of output, exact above approximate, on one colour scale symmetric about zero."""
    reach = max(float(np.quantile(np.abs(exact), 0.98)), 1e-9)
    hover = "position %{x:,}, channel %{y}<br>output %{z:.3f}<extra></extra>"
    for index, (values, words, domain) in enumerate(
        ((exact, "exact output", [0.145, 0.255]), (approx, f"{name} output", [0.0, 0.11])), start=3
    ):
        fig.add_trace(
            go.Heatmap(
                x=rows,
                y=np.arange(values.shape[1]),
                z=values.T,
                coloraxis="coloraxis",
                hovertemplate=hover,
                name=words,
                xaxis=f"x{index}",
                yaxis=f"y{index}",
            )
        )
        fig.layout[f"xaxis{index}"] = {"anchor": f"y{index}", "showticklabels": index == 4, "showgrid": False}
        fig.layout[f"yaxis{index}"] = {
            "anchor": f"x{index}",
            "domain": domain,
            "nticks": 3,
            "showgrid": False,
        }
        fig.add_annotation(
            text=words, x=0, xref="paper", xanchor="left", y=1, yref=f"y{index} domain", yanchor="bottom",
            showarrow=False,
        )  # fmt: skip
    fig.update_layout(
        xaxis4={"title": {"text": "position of the query in the text (tokens)"}},
        yaxis4={"title": {"text": "channel"}},
        coloraxis={"colorscale": theme.SEQUENTIAL, "cmin": -reach, "cmax": reach, "showscale": False},
    )
