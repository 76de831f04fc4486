"""What bounds each kernel on a device: its memory or its arithmetic, and the least time that follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from multipole_lab.suggesting import suggesting

from .common import theme

MEMORY, ARITHMETIC = theme.SKY, theme.ORANGE


@suggesting
def roofline(
    names: Sequence[str],
    moved: Float[np.ndarray, " K"],
    operations: Float[np.ndarray, " K"],
    tflops: float,
    gbps: float,
    device: str,
    source: str = "",
    recorded_names: Sequence[str] = (),
    recorded_intensity: Float[np.ndarray, " R"] = np.empty(0),  # noqa: B008  (never written to)
    recorded_tflops: Float[np.ndarray, " R"] = np.empty(0),  # noqa: B008
    recorded: str = "",
) -> go.Figure:
    """Draw the roof of a device, every kernel under it, and the least time each kernel can take.

    How to read it: to the right a kernel does more operations for every byte it moves. The slanted part of the
    roof is the memory, which feeds only so many operations; the flat part is the arithmetic itself. A kernel can
    be no higher than the roof above its place, and its mark stands there: blue circles wait for memory, orange
    squares for arithmetic. A bar is the time that this allows, at best; crosses are times that were recorded, on
    the device and day that the legend names, never here and now.

    Parameters
    ----------
    names : K kernels. moved : [K] bytes. operations : [K].
    tflops, gbps : the device's peaks, 10^12 operations and 10^9 bytes a second.
    device : its name. source : where the peaks are from, in words.
    recorded_names, recorded_intensity, recorded_tflops : R measured points: operations per byte, 10^12 a second.
    recorded : the device and the day of those, in words.
    """
    intensity = operations / moved
    bound = np.minimum(intensity * gbps / 1e3, tflops)
    memory = intensity * gbps / 1e3 < tflops
    ms = np.maximum(moved / gbps / 1e6, operations / tflops / 1e9)
    finding, reading = _words(names, ms, memory, tflops, gbps, device, source)
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 840, "uirevision": "roofline"})
    _draw_roof(fig, np.concatenate([intensity, recorded_intensity]), tflops, gbps)
    for own, words, colour, symbol in (
        (memory, "waits for memory", MEMORY, "circle"),
        (~memory, "waits for arithmetic", ARITHMETIC, "square"),
    ):
        _draw_kernels(fig, own, names, intensity, bound, ms, words, colour, symbol)
    _draw_recorded(fig, recorded_names, recorded_intensity, recorded_tflops, recorded)
    _draw_times(fig, names, ms, memory)
    _name_marks(fig, names, intensity, bound, memory)
    _place(fig, ms, np.concatenate([bound, recorded_tflops]))
    top = theme.heading_height(finding, reading) + 60
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _words(names, ms, memory, tflops, gbps, device, source) -> tuple[str, str]:
    """Count what waits for memory, and say what the peaks are."""
    ridge = tflops * 1e3 / gbps
    finding = (
        f"{int(memory.sum())} of {len(names)} kernels wait for memory on {device}: "
        f"they do less than {theme.number(ridge)} operations a byte"
    )
    peaks = f"{theme.number(tflops)} TFLOP/s, {theme.number(gbps)} GB/s"
    return (
        finding,
        f"Predicted from the formulas beside the kernels. Peaks: {peaks}{', ' * bool(source)}{source}.",
    )


def _draw_roof(fig, intensity, tflops, gbps) -> None:
    """Add the roof itself: bandwidth times intensity up to the ridge, then flat."""
    ridge = tflops * 1e3 / gbps
    low, high = min(intensity.min(), ridge) / 60, max(intensity.max(), ridge) * 10  # room for names
    x = np.array([low, ridge, high])
    fig.add_trace(
        go.Scatter(
            x=x, y=np.minimum(x * gbps / 1e3, tflops), mode="lines", line={"color": theme.TEXT, "width": 2},
            hoverinfo="skip", showlegend=False, name="roof",
        )
    )  # fmt: skip


def _draw_kernels(fig, own, names, intensity, bound, ms, words, colour, symbol) -> None:
    """Add the kernels that one of the two bounds."""
    fig.add_trace(
        go.Scatter(
            x=intensity[own],
            y=bound[own],
            mode="markers",
            marker={"symbol": symbol, "color": colour, "size": 11},
            text=[name for name, mine in zip(names, own, strict=True) if mine],
            customdata=ms[own],
            hovertemplate="<b>%{text}</b><br>%{x:,.3~r} operations a byte<br>at best %{y:,.3~r} TFLOP/s, "
            "%{customdata:,.3~r} ms<extra></extra>",
            name=words,
        )
    )


def _name_marks(fig, names, intensity, bound, memory) -> None:
    """Write above the roof, where no cross can be, what marks are, as far as there is room.

    All have their name in the hover and in the bars.
    """
    places = np.log10(np.maximum(intensity, 1e-9))
    named = []
    # Decades between two names: below each other, or side by side, where a narrow window has 50 pixels for a decade.
    for own, room in ((memory, 0.42), (~memory, 1.45)):
        last = np.inf
        for i in np.argsort(-intensity, kind="stable"):  # exact attention, the outermost, always has its name
            if own[i] and last - places[i] >= room:
                named.append(i)
                last = places[i]
    fig.add_trace(
        go.Scatter(
            x=intensity[named] * np.where(memory[named], 0.85, 1),
            y=bound[named] * np.where(memory[named], 1.1, 1.5),
            text=[names[i] for i in named],
            textposition=["top left" if memory[i] else "top center" for i in named],
            textfont={"size": 10},
            mode="text",
            hoverinfo="skip",
            showlegend=False,
            name="names",
        )
    )


def _draw_recorded(fig, names, intensity, tflops, words) -> None:
    """Add what was measured earlier, elsewhere, and say so."""
    fig.add_trace(
        go.Scatter(
            x=intensity,
            y=tflops,
            mode="markers",
            marker={"symbol": "x-thin", "size": 10, "line": {"width": 2.5, "color": theme.VERMILION}},
            text=list(names),
            hovertemplate="<b>%{text}</b>, recorded<br>%{y:,.3~r} TFLOP/s<extra></extra>",
            name=f"recorded: {words.replace('NVIDIA ', '')}" if words else "recorded",
            showlegend=len(intensity) > 0,
        )
    )


def _draw_times(fig, names, ms, memory) -> None:
    """Add the least time of every kernel as a bar, the longest on top."""
    order = np.argsort(ms, kind="stable")
    fig.add_trace(
        go.Bar(
            x=ms[order],
            y=[names[i] for i in order],
            orientation="h",
            marker={"color": [MEMORY if memory[i] else ARITHMETIC for i in order], "line": {"width": 0}},
            text=[theme.number(float(ms[i])) for i in order],
            textposition="outside",
            textfont={"size": 11},
            cliponaxis=False,
            hovertemplate="%{y}: at best %{x:,.3~r} ms<extra></extra>",
            showlegend=False,
            name="least time",
            xaxis="x2",
            yaxis="y2",
        )
    )


def _place(fig, ms, heights) -> None:
    """Put the roof above, with room for names over it, and the bars below; all scales of work are logarithmic."""
    log = {"type": "log", "dtick": 1, "tickformat": ",~g"}
    low, high = np.log10([ms[ms > 0].min(), ms.max()])  # a kernel may have nothing to do
    bottom, top = np.log10([heights[heights > 0].min(), heights.max()])
    fig.update_layout(
        xaxis={"title": {"text": "operations for every byte moved"}, **log},
        yaxis={"title": {"text": "TFLOP/s"}, "domain": [0.62, 1],
               "range": [float(bottom - 0.4), float(top + 0.7)], **log},
        xaxis2={"title": {"text": "least time of one call (ms)"}, "anchor": "y2",
                "range": [float(np.floor(low - 0.1)), float(high + 0.35)], **log},
        yaxis2={"domain": [0, 0.5], "anchor": "x2", "showgrid": False, "type": "category", "dtick": 1,
                "tickfont": {"size": 11}},
        bargap=0.25,
        legend={"y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
