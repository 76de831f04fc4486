"""Measured curves, one for each thing that is compared: the figure that most experiments end with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from multipole_lab.suggesting import question, suggesting

from .common import theme

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
_ROOM = 60  # letters of a legend that fit one line of a narrow figure


@suggesting
def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    finding: str,
    reading: str = "",
    *,
    x: str,
    y: str,
    log: str = "",
    colours: Mapping[str, str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    rule: float | None = None,
) -> go.Figure:
    """Draw named curves over one pair of axes, a mark at every measured point.

    How to read it: a mark was measured, the line between two marks only joins them. With both axes logarithmic a
    power law is a straight line whose slope is its exponent.

    Parameters
    ----------
    series : name -> (x values [L], y values [L]); lengths may differ between curves.
    finding, reading : the title, and the smaller line below it.
    x, y : titles of the axes.
    log : which axes are logarithmic: "", "x", "y" or "xy". Few whole numbers on a logarithmic x have a tick each.
    colours : of some curves; the others take the theme's, one after the other.
    notes : name -> words for the hover box of each mark.
    rule : height of a dotted line, such as 1 for "as fast as exact attention".

    Raises
    ------
    ValueError : ``log`` is something else, a curve has not one y for every x or a note for each, or a name of
        ``colours`` or ``notes`` is that of no curve.
    """
    for argument, given in (("colours", colours), ("notes", notes)):
        for name in given or ():
            if name not in series:
                raise ValueError(
                    f"{argument} has {name!r}; there are {', '.join(series)}{question(name, series)}"
                )
    if log not in ("", "x", "y", "xy"):
        raise ValueError(f"log is {log!r}; allowed are '', 'x', 'y' and 'xy'")
    for name, (xs, ys) in series.items():
        if len(xs) != len(ys):
            raise ValueError(f"series[{name!r}] has {len(xs)} x values and {len(ys)} y values")
        if name in (notes or {}) and len(notes[name]) != len(xs):
            raise ValueError(f"notes[{name!r}] has {len(notes[name])} notes for {len(xs)} marks")
    below = sum(len(name) + 5 for name in series) > _ROOM
    top = theme.heading_height(finding, reading) + (0 if below else 34)
    figure = go.Figure(layout={"template": theme.TEMPLATE, "title": theme.title(finding, reading)})
    entries = {name: theme.narrow(name) for name in series}
    rows = sum(1 + entry.count("<br>") for entry in entries.values())
    for i, (name, (xs, ys)) in enumerate(series.items()):
        figure.add_scatter(
            x=list(xs), y=list(ys), name=entries[name], mode="lines+markers", text=(notes or {}).get(name),
            line={"color": (colours or {}).get(name), "width": 2.5},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9},
        )  # fmt: skip
    if rule is not None:
        figure.add_hline(y=rule, line_dash="dot", line_color=theme.RULE)
    if "x" in log:
        figure.update_xaxes(
            type="log", **_ticks(sorted({float(value) for xs, _ in series.values() for value in xs}))
        )
    if "y" in log:
        figure.update_yaxes(type="log", **_decades([y for _, ys in series.values() for y in ys]))
    legend = {"orientation": "v", "y": -0.2, "yanchor": "top"} if below else {"y": 1.0, "yanchor": "bottom"}
    return figure.update_layout(
        height=top + 300 + 22 * rows * below, margin={"t": top}, legend=legend, xaxis_title=x, yaxis_title=y
    )  # fmt: skip


def _ticks(values: list[float]) -> dict:
    """A tick for every length or budget, or for every second or third of many; for other numbers as on a height."""
    if not values or not all(value.is_integer() for value in values):
        return _decades(values)
    shown = values[:: math.ceil(len(values) / 9)]
    return {"tickvals": shown, "ticktext": [f"{value:,.0f}" for value in shown]}


def _decades(values: list[float]) -> dict:
    """A tick for every power of ten, and for 2 and 5 where there are few, in plain numbers where those are short."""
    values = [value for value in values if value > 0]
    if not values:
        return {}
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    if min(values) < 1e-4 or max(values) > 1e4:
        shown = powers[:: math.ceil(len(powers) / 9)]
        # Written out, for plotly's own powers are a quarter larger than the words beside them.
        return {"tickvals": [10.0**x for x in shown], "ticktext": [f"10<sup>{x}</sup>" for x in shown]}
    between = (1, 2, 5) if max(values) < 30 * min(values) else (1,)
    ticks = [round(times * 10.0**power, 12) for power in powers for times in between]
    return {"tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}
