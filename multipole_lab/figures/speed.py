"""Time against context length, exact and approximate, with the error that the time saved has cost."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.suggesting import suggesting

from .common import theme


@suggesting
def speed(
    lengths: Int[np.ndarray, " L"],
    exact_ms: Float[np.ndarray, " L"],
    approx_ms: Float[np.ndarray, " L"],
    rse: Float[np.ndarray, " L"],
    machine: str,
    name: str = "approximate",
    detail: str = "",
    measuring: bool = False,
    spread: Float[np.ndarray, "2 2 L"] | None = None,
    device_ms: Float[np.ndarray, "2 L"] | None = None,
) -> go.Figure:
    """Draw the time of exact and approximate attention against context length, and the error beside them.

    How to read it: both axes are logarithmic, so exact attention, whose work grows with the square of the
    length, climbs steeply, and the approximation, whose work grows almost in proportion, climbs gently. Where
    the lines cross is the length from which approximating pays. The dotted line is the error, read on the
    right. The numbers are this machine's, measured just now: a median of turns, and a bar over the middle half of them.

    Parameters
    ----------
    lengths : [L]. Context lengths in tokens, ascending.
    exact_ms, approx_ms : [L]. Median milliseconds for one call, clustering included.
    rse : [L]. Relative squared error of the approximation; NaN where the text was too short and its tokens were drawn
        again, which says nothing about errors.
    machine : what was measured and in which precision, in words.
    name : the approximation, in words. detail : what was timed, in words.
    measuring : more lengths are to come; then the title claims nothing yet.
    spread : [2, 2, L]. Between which milliseconds the middle half of the turns was, exact and approximate: low, high.
    device_ms : [2, L]. What a GPU itself takes, exact and approximate, where its host has nothing to do: dashed. NaN
        where that is not known.
    """
    known = device_ms is not None and bool(np.isfinite(device_ms).any())
    finding, reading = _words(lengths, exact_ms, approx_ms, rse, machine, name, measuring)
    if known and not measuring:
        reading = f"{reading} {_alone(device_ms[:, -1])}".strip()
    reading = f"{reading} {detail}".strip()
    top = theme.heading_height(finding, reading) + 34
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 600, "uirevision": "speed"})
    for i, (times, words, colour, symbol) in enumerate(
        ((exact_ms, "exact", theme.EXACT, "circle"), (approx_ms, name, theme.TILTED, "square"))
    ):
        fig.add_trace(
            go.Scatter(
                x=lengths,
                y=times,
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"symbol": symbol, "size": 9},
                hovertemplate=f"{words}<br>%{{x:,}} tokens: %{{y:,.3~r}} ms<extra></extra>",
                name=f"{words}, time",
                error_y=None if spread is None else _bars(times, *spread[i], colour),
            )
        )
    if known:
        for times, words, colour in zip(device_ms, ("exact", name), (theme.EXACT, theme.TILTED), strict=True):
            fig.add_trace(_dashed(lengths, times, words, colour))
    fig.add_trace(
        go.Scatter(
            x=lengths,
            y=np.maximum(rse, 1e-16),
            mode="lines+markers",
            line={"color": theme.PURPLE, "width": 2, "dash": "dot"},
            marker={"symbol": "diamond-open", "size": 9},
            hovertemplate="error at %{x:,} tokens: %{y:.2~%}<br>of the output's energy<extra></extra>",
            name="its error, below",
            yaxis="y2",
        )
    )
    _place(fig, lengths, rse)
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _dashed(lengths, times, words, colour) -> go.Scatter:
    """Draw what the GPU alone takes."""
    return go.Scatter(
        x=lengths,
        y=times,
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        hovertemplate=f"{words}, the GPU alone<br>%{{x:,}} tokens: %{{y:,.3~r}} ms<extra></extra>",
        name=f"{words}, GPU alone",
    )


def _alone(ms) -> str:
    """State the speed-up of the GPU itself at the longest length."""
    if not np.isfinite(ms).all():
        return ""
    ratio = float(ms[0] / ms[1])
    return f"The GPU alone, in a CUDA graph: {theme.pace(ratio)}."


def _bars(times, low, high, colour) -> dict:
    """Error bars from the low to the high times."""
    return {"array": high - times, "arrayminus": times - low, "color": colour, "thickness": 1.5, "width": 4}


def _words(lengths, exact_ms, approx_ms, rse, machine, name, measuring) -> tuple[str, str]:
    """State the speed-up and the error at the longest length measured; a slow-down is stated as plainly."""
    if measuring or len(lengths) == 0:
        return "Measuring exact and approximate attention, turn by turn", f"On {machine}."
    ratio = float(exact_ms[-1] / approx_ms[-1])
    finding = f"At {lengths[-1]:,} tokens {name} is {theme.pace(ratio, 'exact')}"
    real = np.flatnonzero(np.isfinite(rse))
    drawn = len(real) < len(lengths)
    if len(real):
        finding += f", with error {theme.number(float(rse[real[-1]]))}"
        finding += f" at {lengths[real[-1]]:,}" if drawn else ""
    place = _crossing(lengths, exact_ms, approx_ms)
    if place is not None:
        finding += f"; the lines cross near {place:,.0f} tokens"
    reading = f"Measured just now on {machine}."
    if drawn:
        reading += " Beyond the sample's end its tokens are drawn again: no error is shown there."
    return finding, reading


def _crossing(lengths, exact_ms, approx_ms) -> float | None:
    """Where the approximation becomes faster for good, to two digits, on straight lines between what was measured."""
    ahead = np.log(exact_ms / approx_ms)
    behind = np.flatnonzero(ahead < 0)
    if len(behind) == 0 or behind[-1] == len(ahead) - 1:
        return None
    i = behind[-1]
    at = np.exp(np.interp(0, ahead[i : i + 2], np.log(lengths[i : i + 2])))
    return round(float(at), 1 - int(np.log10(at)))


def _place(fig, lengths, rse) -> None:
    """Put the times above the errors on logarithmic axes, with ticks at the lengths that were measured."""
    fig.update_layout(
        xaxis={
            "title": {"text": "context length (tokens)"},
            "type": "log",
            "tickvals": list(map(int, lengths)),
            "ticktext": [f"{int(n):,}" for n in lengths],
            "showgrid": False,
            "anchor": "y2",
        },
        yaxis={
            "title": {"text": "time for one call (ms)"},
            "type": "log",
            "dtick": 1,
            "tickformat": ",~g",
            "domain": [0.4, 1],
        },
        yaxis2={
            "title": {"text": "rel. squared error"},
            "type": "log",
            "dtick": 1,
            "tickformat": "~%",
            "domain": [0, 0.3],
            # A decade to spare on both sides: without it noise in a flat error fills the height.
            "range": _decades(rse),
        },
        legend={"y": 1.0, "yanchor": "bottom"},
    )


def _decades(values) -> list[float]:
    """Give the logarithmic range that holds the values with space to spare."""
    values = np.asarray(values)[np.isfinite(values)]
    if len(values) == 0:
        return [-3.0, 0.0]
    low, high = (float(np.log10(max(v, 1e-16))) for v in (np.min(values), np.max(values)))
    return [float(np.floor(low - 0.5)), float(np.ceil(high + 0.3))]
