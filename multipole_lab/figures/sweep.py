"""A sweep: at every length the front of error against time, and how well the cost model tells the times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from multipole_lab.suggesting import suggesting

from .common import theme
from .common.arrays import check_equally_many
from .front import pareto

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star-triangle-down", "hexagon")


@suggesting
def sweep(
    ms: Float[np.ndarray, " M"],
    rse: Float[np.ndarray, " M"],
    lengths: Int[np.ndarray, " M"],
    methods: Sequence[str],
    max_error: float,
    machine: str,
    predicted_ms: Sequence[float] | None = None,
) -> go.Figure:
    """Draw every setting at every length by its time and its error, and its time beside the cost model's.

    How to read it: above, left is faster and down is more accurate; each length has a colour and a shape, and a
    stepped line through the settings that nothing of that length beats. Below the dashed line the error is allowed;
    a ring marks the fastest setting there. Underneath, the same times against those of the cost model: on the
    diagonal the model is right.

    Parameters
    ----------
    ms : [M]. Milliseconds of one call. rse : [M]. Relative squared error. lengths : [M]. Tokens.
    methods : M strings, as they would be typed.
    max_error : the error that is allowed. machine : what was measured and in which precision, in words.
    predicted_ms : [M]. The cost model's milliseconds, NaN for a method that it knows nothing of; None for no model.

    Raises
    ------
    ValueError : arrays of different lengths.
    """
    check_equally_many(ms=ms, rse=rse, lengths=lengths, methods=methods, predicted_ms=predicted_ms)
    ms, rse, lengths, methods = (np.asarray(x) for x in (ms, rse, lengths, methods))
    predicted = np.full(len(ms), np.nan) if predicted_ms is None else np.asarray(predicted_ms, float)
    modelled = bool(np.isfinite(predicted).any())
    fig = make_subplots(
        rows=1 + modelled, cols=1, vertical_spacing=0.16, row_heights=[0.62, 0.38][: 1 + modelled]
    )
    for i, length in enumerate(np.unique(lengths)):
        style = {
            "color": theme.QUALITATIVE[i % len(theme.QUALITATIVE)],
            "symbol": _SYMBOLS[i % len(_SYMBOLS)],
        }
        own = lengths == length
        _draw_length(fig, ms[own], rse[own], methods[own], f"{length:,} tokens", style, max_error)
        if modelled:
            _draw_model(fig, ms[own], predicted[own], methods[own], f"{length:,} tokens", style)
    _place(fig, ms, rse, predicted, max_error, modelled)
    finding, reading = _words(ms, rse, lengths, methods, max_error, machine)
    rows = -(-(len(np.unique(lengths)) + 1) // 3)  # of the legend, in a narrow window
    fig.update_layout(
        template=theme.TEMPLATE, height=760 if modelled else 520, uirevision="sweep",
        title=theme.title(finding, reading), legend={"y": 1.0, "yanchor": "bottom"},
        margin={"t": theme.heading_height(finding, reading) + 20 * rows + 8},
    )  # fmt: skip
    return fig


def _words(ms, rse, lengths, methods, max_error, machine) -> tuple[str, str]:
    """Name the fastest allowed setting at the greatest length."""
    reading = f"{len(ms)} measured on {machine}. Above: left is faster, down is more accurate."
    if not len(ms):
        return "Nothing has been measured yet", reading
    longest = lengths.max()
    allowed = np.flatnonzero((lengths == longest) & (rse <= max_error))
    target = f"an error of {theme.number(max_error)}"
    if not len(allowed):
        least = rse[lengths == longest].min()
        return (
            f"At {longest:,} tokens none keeps {target}; the least is {theme.number(float(least))}",
            reading,
        )
    best = allowed[ms[allowed].argmin()]
    return (
        f"At {longest:,} tokens the fastest within {target} takes {theme.number(float(ms[best]))} ms: {methods[best]}",
        reading,
    )


def _draw_length(fig, ms, rse, methods, name, style, max_error) -> None:
    """Add one length: its marks, its front and a ring around the fastest that is allowed."""
    rse = np.maximum(rse, 1e-16)
    on = np.flatnonzero(pareto(ms, rse))
    on = on[np.argsort(ms[on], kind="stable")]
    fig.add_scatter(
        x=ms[on], y=rse[on], mode="lines", line={"color": style["color"], "width": 1.5, "shape": "hv"},
        hoverinfo="skip", showlegend=False, legendgroup=name, name=f"front, {name}", row=1, col=1,
    )  # fmt: skip
    fig.add_scatter(
        x=ms, y=rse, mode="markers", marker={"size": 9, **style}, text=methods, name=name, legendgroup=name,
        hovertemplate=f"<b>%{{text}}</b><br>{name}: %{{x:,.3~r}} ms, error %{{y:.2g}}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    allowed = np.flatnonzero(rse <= max_error)
    if len(allowed):
        best = allowed[[ms[allowed].argmin()]]
        fig.add_scatter(
            x=ms[best], y=rse[best], mode="markers", hoverinfo="skip", showlegend=False, legendgroup=name,
            marker={"symbol": "circle-open", "size": 20, "color": theme.VERMILION, "line": {"width": 3}},
            name=f"fastest allowed, {name}", row=1, col=1,
        )  # fmt: skip


def _draw_model(fig, ms, predicted, methods, name, style) -> None:
    """Add one length's times against the model's."""
    known = np.isfinite(predicted)
    fig.add_scatter(
        x=ms[known], y=predicted[known], mode="markers", marker={"size": 8, **style}, text=methods[known],
        name=f"model, {name}", legendgroup=name, showlegend=False,
        hovertemplate="<b>%{text}</b><br>%{x:,.3~r} ms, the model says %{y:,.3~r}<extra></extra>", row=2, col=1,
    )  # fmt: skip


def _place(fig, ms, rse, predicted, max_error, modelled) -> None:
    """Logarithmic axes with titles, the allowed error, and the diagonal on which the model is right."""
    log = {"type": "log", "tickformat": ",~g"}
    fig.update_xaxes(title_text="time for one call (ms)", dtick="D2", **log)
    fig.update_yaxes(title_text="relative squared error", dtick=1, **log, row=1, col=1)
    edge = {"color": theme.VERMILION, "width": 2, "dash": "dash"}
    fig.add_shape(
        type="line", x0=0, x1=1, xref="x domain", y0=max_error, y1=max_error, line=edge, name="allowed",
        row=1, col=1,
    )  # fmt: skip
    if len(rse):
        errors = np.log10(np.maximum([*rse, max_error], 1e-16))
        fig.update_yaxes(range=[float(errors.min() - 0.25), float(errors.max() + 0.25)], row=1, col=1)
    if modelled:
        fig.update_yaxes(title_text="cost model (ms)", dtick="D2", **log, row=2, col=1)
        both = np.concatenate([ms, predicted[np.isfinite(predicted)]])
        ends = [float(both[both > 0].min()), float(both.max())]
        rule = {"color": theme.TEXT, "width": 1.5}
        fig.add_shape(
            type="line", x0=ends[0], x1=ends[1], y0=ends[0], y1=ends[1], line=rule, name="right", row=2, col=1
        )
