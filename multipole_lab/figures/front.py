"""Error against time for many methods and settings: which of them nothing else beats, and what a time limit buys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from multipole_lab.suggesting import suggesting

from .common import theme

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star-triangle-down", "hexagon")
_HOVER = "<b>%{text}</b><br>%{x:,.3~r} ms, error %{y:.2g}<extra></extra>"


@suggesting
def front(
    ms: Float[np.ndarray, " M"],
    rse: Float[np.ndarray, " M"],
    families: Sequence[str],
    settings: Sequence[str],
    exact_ms: float,
    budget_ms: float,
    machine: str,
    names: Sequence[str] | None = None,
    measuring: bool = False,
) -> go.Figure:
    """Draw one mark for each method and setting, the front of those that nothing beats, and a time limit.

    How to read it: left is faster and down is more accurate, on logarithmic axes, so the lower left corner is
    where everybody wants to be. Each mark is one setting; its colour and shape say which method. The stepped
    line is the *Pareto front*: a mark on it has no other mark that is both faster and more accurate. The dashed
    line is the time of exact attention: marks to its right save nothing. The shaded part is over the limit; the
    ring marks the most accurate setting that is within it.

    Parameters
    ----------
    ms : [M]. Milliseconds of one call, clustering included; NaN for what is not measured yet.
    rse : [M]. Relative squared error; NaN for what is not measured yet.
    families : M names: the method that a mark belongs to. settings : M strings: its setting.
    exact_ms : milliseconds of exact attention, measured in the same turns; NaN before the first.
    budget_ms : the time that one call may take; NaN before the first measurement.
    machine : what was measured and in which precision, in words.
    names : the methods in the order of their colours; by default in the order in which they appear.
    measuring : more is to come; then the title claims nothing yet.
    """
    families, settings = np.asarray(families), np.asarray(settings)
    names = list(dict.fromkeys(families)) if names is None else list(names)
    best = within_budget(ms, rse, budget_ms)
    finding, reading = _words(ms, rse, families, settings, exact_ms, budget_ms, best, machine, measuring)
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 560, "uirevision": "front"})
    _draw_front(fig, ms, rse)
    _draw_methods(fig, ms, rse, families, settings, names)
    _draw_choice(fig, ms, rse, families, settings, best)
    _draw_budget(fig, ms, exact_ms, budget_ms)
    _place(fig, ms, rse, exact_ms)
    rows = -(-(len(names) + 2) // 3)  # of the legend, in a narrow window
    top = theme.heading_height(finding, reading) + 20 * rows + 8
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def pareto(ms: Float[np.ndarray, " M"], rse: Float[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Say which points nothing beats: no other is as fast and as accurate, and better in one of the two."""
    known = np.isfinite(ms) & np.isfinite(rse)
    no_worse = (ms[:, None] >= ms) & (rse[:, None] >= rse)  # [M, M]: is the second as good as the first?
    better = no_worse & ((ms[:, None] > ms) | (rse[:, None] > rse)) & known
    return known & ~better.any(axis=1)


def within_budget(ms: Float[np.ndarray, " M"], rse: Float[np.ndarray, " M"], budget_ms: float) -> int | None:
    """Find the most accurate point that is within the limit, or None."""
    allowed = np.isfinite(rse) & (ms <= budget_ms)
    return int(np.where(allowed, rse, np.inf).argmin()) if allowed.any() else None


def _words(ms, rse, families, settings, exact_ms, budget_ms, best, machine, measuring) -> tuple[str, str]:
    """Name the best setting within the limit, or the fastest where none is."""
    done = int(np.isfinite(rse).sum())
    reading = f"Measured just now on {machine}. Left is faster, down is more accurate."
    if measuring or done == 0:
        return f"Measuring methods against exact attention, turn by turn: {done} of {len(ms)}", reading
    share = f"{theme.number(budget_ms)} ms, {budget_ms / exact_ms:.0%} of exact attention's time"
    if best is None:
        return (
            f"Nothing is within {share}; the fastest takes {theme.number(float(np.nanmin(ms)))} ms",
            reading,
        )
    return (
        f"Within {share}, the smallest error is {theme.number(float(rse[best]))}: "
        f"{families[best]}, {settings[best]}",
        reading,
    )


def _draw_front(fig, ms, rse) -> None:
    """Add the stepped line through the points that nothing beats, fastest first."""
    on = np.flatnonzero(pareto(ms, rse))
    on = on[np.argsort(ms[on], kind="stable")]
    fig.add_trace(
        go.Scatter(
            x=ms[on],
            y=np.maximum(rse[on], 1e-16),
            mode="lines",
            line={"color": theme.TEXT, "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
            name="nothing beats these",
        )
    )


def _draw_methods(fig, ms, rse, families, settings, names) -> None:
    """Add a trace for each method, with a shape of its own beside the colour."""
    for i, name in enumerate(names):
        own = families == name
        fig.add_trace(
            go.Scatter(
                x=ms[own],
                y=np.maximum(rse[own], 1e-16),
                mode="markers",
                marker={
                    "symbol": _SYMBOLS[i % len(_SYMBOLS)],
                    "color": theme.QUALITATIVE[i % len(theme.QUALITATIVE)],
                    "size": 10,
                },
                text=[f"{name}, {setting}" for setting in settings[own]],
                hovertemplate=_HOVER,
                name=name,
            )
        )


def _draw_choice(fig, ms, rse, families, settings, best) -> None:
    """Ring the most accurate setting within the limit."""
    chosen = [] if best is None else [best]
    fig.add_trace(
        go.Scatter(
            x=ms[chosen],
            y=np.maximum(rse[chosen], 1e-16),
            mode="markers",
            marker={"symbol": "circle-open", "size": 22, "color": theme.VERMILION, "line": {"width": 3}},
            text=[f"{families[i]}, {settings[i]}" for i in chosen],
            hovertemplate=_HOVER,
            name="best within the limit",
        )
    )


def _draw_budget(fig, ms, exact_ms, budget_ms) -> None:
    """Shade the time beyond the limit and rule a line at exact attention's time."""
    if not np.isfinite([exact_ms, budget_ms]).all():
        return
    far = 100 * max(exact_ms, budget_ms, float(np.nanmax(ms, initial=0.0)))
    fig.add_shape(
        type="rect", x0=budget_ms, x1=far, y0=0, y1=1, yref="y domain", layer="below",
        fillcolor=theme.SHADE, line={"width": 0}, name="over the limit",
    )  # fmt: skip
    rule = {"color": theme.EXACT, "width": 2, "dash": "dash"}
    fig.add_shape(type="line", x0=exact_ms, x1=exact_ms, y0=0, y1=1, yref="y domain", line=rule, name="exact")
    fig.add_annotation(
        text="exact", x=float(np.log10(exact_ms)), xanchor="left", y=1, yref="y domain", yanchor="top",
        showarrow=False, font={"color": theme.EXACT},
    )  # fmt: skip


def _place(fig, ms, rse, exact_ms) -> None:
    """Make both axes logarithmic, with the points and exact attention in view."""
    known = np.concatenate([ms[np.isfinite(ms)], [exact_ms]])
    known = known[np.isfinite(known)]
    low, high = np.log10([known.min(), known.max()]) if len(known) else (0.0, 2.0)
    error = np.maximum(rse[np.isfinite(rse)], 1e-16)
    down, up = np.log10([error.min(), error.max()]) if len(error) else (-3.0, 0.0)
    ticks = {"type": "log", "dtick": "D2", "tickformat": ",~g"}
    fig.update_layout(
        xaxis={"title": {"text": "time for one call (ms)"}, "range": [low - 0.15, high + 0.25], **ticks},
        yaxis={
            "title": {"text": "relative squared error"}, "range": [down - 0.25, up + 0.25],
            "type": "log", "dtick": 1 if up - down > 1.5 else "D2", "tickformat": ",~g",
        },
        legend={"y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
