"""What attention costs by two methods: operations, bytes, time and memory, each pair on a scale of its own."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from multipole_lab.suggesting import suggesting

from .common import theme

QUANTITIES = ("multiply-adds", "bytes moved", "time", "memory held")


@suggesting
def cost(
    exact: Float[np.ndarray, " 4"],
    approximate: Float[np.ndarray, " 4"],
    problem: str,
    machine: str,
    name: str = "MuSe",
    crossover: int | None = None,
    matrix_bytes: float | None = None,
    detail: str = "",
    measuring: bool = False,
) -> go.Figure:
    """Draw what exact attention and an approximation cost, in four pairs of bars.

    How to read it: every pair has a scale of its own, so compare the two bars of a pair and read the numbers at their
    ends. The operations are formulas, exact to the last one; the bytes are the least that has to be read and written;
    the time is worked out from prices that were measured on the machine that the title names; the memory is what has to
    be kept at once.

    Parameters
    ----------
    exact, approximate : multiply-adds, bytes moved, milliseconds, bytes held. NaN where prices are not measured yet.
    problem, machine : in words. name : the approximation, as it would be typed.
    crossover : tokens from which on the approximation is faster; None where it never is.
    matrix_bytes : what the matrix of all weights would take, which no method here stores.
    detail : a sentence about the prices. measuring : whether the prices are still to come.
    """
    finding, reading = _words(exact, approximate, problem, machine, name, crossover, matrix_bytes, measuring)
    reading = f"{reading} {detail}".strip()
    most = np.fmax(exact, approximate)
    bars = [
        go.Bar(
            x=np.nan_to_num(values / most), y=list(QUANTITIES), orientation="h", name=said, marker={"color": colour},
            text=[_said(i, value) for i, value in enumerate(values)], textposition="outside",
            textfont={"size": 12}, cliponaxis=False,
            hovertemplate=f"{said}: %{{text}}<extra></extra>",
        )
        for said, values, colour in (("exact", exact, theme.EXACT), (name, approximate, theme.TILTED))
    ]  # fmt: skip
    top = theme.heading_height(finding, reading) + 26
    layout = {
        "template": theme.TEMPLATE, "height": top + 300, "uirevision": "cost", "bargap": 0.3, "bargroupgap": 0.08,
        "xaxis": {"visible": False, "range": [0, 1.3]}, "yaxis": {"autorange": "reversed", "showgrid": False},
        "title": theme.title(finding, reading), "margin": {"t": top}, "legend": {"y": 1.0, "yanchor": "bottom"},
    }  # fmt: skip
    return go.Figure(bars, layout)


def _words(exact, approximate, problem, machine, name, crossover, matrix_bytes, measuring) -> tuple[str, str]:
    """Say which is faster, by how much, and from which length on."""
    if measuring:
        return "Measuring what operations cost on this machine", f"{problem}. {machine}."
    ratio = exact[2] / approximate[2]
    finding = f"{problem}: {name.split('(')[0]} would be {theme.pace(ratio, 'exact attention')}"
    where = (
        f"It is faster from {crossover:,} tokens on."
        if crossover
        else "It is faster at no length up to 1,048,576."
    )
    matrix = (
        f" The matrix of all weights would take {amount(matrix_bytes)}; none is stored."
        if matrix_bytes
        else ""
    )
    return finding, f"{where}{matrix} Prices measured on {machine}."


def _said(i: int, value: float) -> str:
    """A number with its unit."""
    if np.isnan(value):
        return "?"
    return f"{(_count, amount, duration, amount)[i](value)}"


def _count(number: float) -> str:
    """A number of operations: 12 million, 3.4 trillion."""
    return _scaled(
        number, 1000, ("", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion")
    )


def amount(number: float) -> str:
    """A number of bytes: 1.1 GB."""
    return _scaled(number, 1000, (" B", " kB", " MB", " GB", " TB", " PB"))


def duration(ms: float) -> str:
    """A time in the unit that suits it: 0.4 ms, 12 s, 3.1 min, 2.2 h, 5.4 days."""
    units = (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
    for unit, size in units:
        if ms >= size:
            return f"{theme.number(ms / size)} {unit}"
    return f"{theme.number(ms)} ms"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    """A number in the largest unit of which there is one."""
    i = 0
    while number >= 0.9995 * step and i < len(units) - 1:
        number, i = number / step, i + 1
    return f"{theme.number(number)}{units[i]}"
