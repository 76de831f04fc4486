"""What a search for the fastest method under an error has tried, and what it recommends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from multipole_lab.suggesting import suggesting

from .common import theme
from .common.arrays import check_equally_many


@suggesting
def tuner(
    rse: Float[np.ndarray, " M"],
    speedup: Float[np.ndarray, " M"],
    methods: Sequence[str],
    max_error: float,
    chosen: int | None,
    machine: str,
    note: str = "",
) -> go.Figure:
    """Draw every method that was tried by its error and its speed, the error that is allowed, and the choice.

    How to read it: left is more accurate, up is faster; the rule at 1 is exact attention itself, so a mark below it
    is slower than not approximating at all. Marks left of the dashed line (unshaded) keep the error that you allow.
    The ring is the fastest of those: the recommendation.

    Parameters
    ----------
    rse : [M]. Relative squared error. speedup : [M]. Times faster than exact attention, measured in the same turns.
    methods : M strings, as they would be typed.
    max_error : the error that is allowed. chosen : the recommended one, or None.
    machine : what was measured and in which precision, in words.
    note : what is said instead of a finding, while nothing is found.

    Raises
    ------
    ValueError : arrays of different lengths, a choice that is none of the methods.
    """
    check_equally_many(rse=rse, speedup=speedup, methods=methods)
    if chosen is not None and chosen not in range(len(methods)):
        raise ValueError(f"chosen is {chosen}; there are {len(methods)} methods, from 0, or None")
    finding, reading = _words(rse, speedup, methods, max_error, chosen, machine, note)
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 480, "uirevision": "tuner"})
    allowed = rse <= max_error
    for own, words, colour, symbol in (
        (allowed, "error allowed", theme.BLUE, "circle"),
        (~allowed, "error too large", theme.QUALITATIVE[-1], "x"),
    ):
        _draw_methods(fig, own, rse, speedup, methods, words, colour, symbol)
    _draw_choice(fig, rse, speedup, methods, chosen)
    _place(fig, rse, speedup, max_error)
    top = theme.heading_height(finding, reading) + 36
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _words(rse, speedup, methods, max_error, chosen, machine, note) -> tuple[str, str]:
    """Name the recommendation, or say what stands in its way."""
    target = theme.number(max_error)
    if note or len(rse) == 0:
        return (
            note or "Nothing has been tried yet",
            f"Allowed is an error of {target}. Times are of {machine}.",
        )
    reading = f"{len(rse)} tried on {machine}. Left is more accurate, up is faster."
    if chosen is None:
        return (
            f"None of {len(rse)} has an error below {target}; the least is {theme.number(rse.min())}",
            reading,
        )
    pace = float(speedup[chosen])
    return (
        f"Under an error of {target} the best is {theme.pace(pace, 'exact')}, with error "
        f"{theme.number(float(rse[chosen]))}: {methods[chosen]}",
        reading,
    )


def _draw_methods(fig, own, rse, speedup, methods, words, colour, symbol) -> None:
    """Add the methods on one side of the allowed error."""
    fig.add_trace(
        go.Scatter(
            x=np.maximum(rse[own], 1e-16),
            y=speedup[own],
            mode="markers",
            marker={"symbol": symbol, "color": colour, "size": 9},
            text=[method for method, mine in zip(methods, own, strict=True) if mine],
            hovertemplate="<b>%{text}</b><br>error %{x:.2g}, %{y:,.2f} times as fast<extra></extra>",
            name=words,
        )
    )


def _draw_choice(fig, rse, speedup, methods, chosen) -> None:
    """Ring the recommendation."""
    one = [] if chosen is None else [chosen]
    fig.add_trace(
        go.Scatter(
            x=np.maximum(rse[one], 1e-16),
            y=speedup[one],
            mode="markers",
            marker={"symbol": "circle-open", "size": 22, "color": theme.VERMILION, "line": {"width": 3}},
            text=[methods[i] for i in one],
            hovertemplate="<b>%{text}</b><extra></extra>",
            name="recommended",
        )
    )


def _place(fig, rse, speedup, max_error) -> None:
    """Shade the errors that are not allowed, rule exact attention's speed, and keep both in view."""
    errors = np.log10(np.maximum([*rse, max_error], 1e-16))
    paces = np.log10([*speedup, 1.0])
    high = float(errors.max() + 0.4)
    fig.add_shape(
        type="rect", x0=max_error, x1=10.0 ** (high + 3), y0=0, y1=1, yref="y domain", layer="below",
        fillcolor=theme.SHADE, line={"width": 0}, name="not allowed",
    )  # fmt: skip
    edge = {"color": theme.VERMILION, "width": 2, "dash": "dash"}
    fig.add_shape(
        type="line", x0=max_error, x1=max_error, y0=0, y1=1, yref="y domain", line=edge, name="allowed"
    )
    rule = {"color": theme.EXACT, "width": 2}
    fig.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=1, y1=1, line=rule, name="exact")
    fig.update_layout(
        xaxis={"title": {"text": "relative squared error"}, "type": "log", "dtick": _ticks(high - errors.min() + 0.4),
               "tickformat": ",~g", "range": [float(errors.min() - 0.4), high]},
        yaxis={"title": {"text": "times as fast as exact"}, "type": "log", "tickformat": ",~g",
               "dtick": _ticks(np.ptp(paces) + 0.3),
               "range": [float(paces.min() - 0.15), float(paces.max() + 0.15)]},
        legend={"y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip


def _ticks(decades: float) -> str | int:
    """Every digit, or 1, 2 and 5, or powers of ten alone: as many as do not stand on each other."""
    return "D1" if decades < 0.6 else "D2" if decades < 2.5 else 1
