"""One look for every figure: colours that colour-blind readers can tell apart, legible on white and on black.

JupyterLab has a light and a dark theme and a figure cannot know which one it will stand on. So backgrounds
are transparent, and text and grid are mid-greys whose contrast is about equal (4.3 to 1) against both.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

import plotly.graph_objects as go

TEXT = "#7a7a7a"
GRID = "rgba(128, 128, 128, 0.25)"
RULE = "rgba(128, 128, 128, 0.6)"
SHADE = "rgba(128, 128, 128, 0.13)"
CLEAR = "rgba(0, 0, 0, 0)"

# Okabe and Ito's set, less black and yellow: each of these is visible on white and on black.
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#2A7FC0", "#D55E00", "#CC79A7"
QUALITATIVE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, "#999999")
# Enough for 16 clusters: those less the grey, and ten that are as far as possible from them and from each other, for
# readers who do not see red or green as well.
MANY = (
    *QUALITATIVE[:-1], "#882266", "#0000FF", "#555500", "#6611BB", "#AA66FF", "#22CC77", "#886688", "#005588",
    "#DD33CC", "#CC0044",
)  # fmt: skip
SEQUENTIAL = "Cividis"

# The same thing has the same colour in every figure.
EXACT, CENTROID, TILTED = SKY, PURPLE, ORANGE

# Plotly's own buttons, less those that do nothing here, its logo (a link) and "Share chart...", which would
# send the picture to a server.
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d"],
}
# For a figure that a cell shows. JupyterLab tells it of another width; if it listened to the window too,
# it would vanish when that changes in height alone: Plotly then takes the height of a place that has none of its own.
CELL_CONFIG = CONFIG | {"responsive": False}

FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# 65,536 on every axis and in every hover box, as sentences write it: Plotly's own are 65536 and 65k.
_PLAIN = {"separatethousands": True, "exponentformat": "none"}
_AXIS = _PLAIN | {
    "gridcolor": GRID,
    "zerolinecolor": RULE,
    "linecolor": RULE,
    "tickcolor": RULE,
    "automargin": True,
    "ticklabeloverflow": "allow",  # they have room: to look for those that have none takes a tenth of drawing
    "title": {"standoff": 8, "font": {"size": 13}},
    "tickfont": {"size": 12},
}
_SCENE_AXIS = _PLAIN | {
    "gridcolor": RULE,
    "zerolinecolor": RULE,
    "showbackground": False,
    "color": TEXT,
    "nticks": 5,
    "tickfont": {"size": 11},
    "title": {"font": {"size": 12}},
}

TEMPLATE = go.layout.Template(
    layout={
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "colorway": QUALITATIVE,
        "font": {"family": FAMILY, "size": 13, "color": TEXT},
        "title": {
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
        },
        "xaxis": _AXIS,
        "yaxis": {**_AXIS, "ticklabelstandoff": 3},  # a name or a number does not touch the first bar
        "scene": {"xaxis": _SCENE_AXIS, "yaxis": _SCENE_AXIS, "zaxis": _SCENE_AXIS, "bgcolor": CLEAR},
        # Upright at the right edge: across, it would cover the title of a narrow figure.
        "modebar": {"orientation": "v", "bgcolor": CLEAR, "color": TEXT, "activecolor": ORANGE},
        "hoverlabel": {"font": {"family": FAMILY, "size": 13}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "bgcolor": CLEAR, "itemsizing": "constant"},
        "margin": {"l": 8, "r": 8, "t": 90, "b": 8},
    }
)


def unchecked(traces: list[dict], layout: dict) -> go.Figure:
    """Make a figure with this look from dicts that plotly does not check: it takes longer than the rest of a move.

    A test has it check them.
    """
    return go.Figure(traces, layout | {"template": TEMPLATE.to_plotly_json()}, _validate=False)


# Characters that fit one line of a 460 pixel wide figure (a 900 pixel window with the file browser open).
_FINDING_WIDTH, _READING_WIDTH = 52, 64


def title(finding: str, reading: str = "", factor: float = 1.0) -> dict:
    """Make a title that states what was found, over a smaller line that says how to read the picture.

    ``factor`` enlarges the type.
    """
    text = f"<b>{'<br>'.join(_wrap(finding, _FINDING_WIDTH / factor))}</b>"
    if reading:
        small = "<br>".join(_wrap(reading, _READING_WIDTH / factor))
        text += f"<br><span style='font-size:0.85em'>{small}</span>"
    return {"text": text, "font": {"size": 14 * factor}, "pad": {"t": 20, "l": 8}}


def enlarge(figure: go.Figure, factor: float = 1.35) -> go.Figure:
    """Return a copy of a figure with all its type larger, its title wrapped again and given space."""
    large = go.Figure(figure)
    text = large.layout.title.text or ""
    heading = re.fullmatch(r"<b>(.*?)</b>(?:<br><span[^>]*>(.*)</span>)?", text)
    if heading:
        finding, reading = ((part or "").replace("<br>", " ") for part in heading.groups())
        lines = _wrap(finding, _FINDING_WIDTH / factor) + _wrap(reading, _READING_WIDTH / factor)
        old = 1 + text.count("<br>")
        large.layout.title = title(finding, reading, factor)
        large.layout.margin.t = (large.layout.margin.t or 90) + 18 * (factor * len(lines) - old)
    if large.layout.legend.yanchor == "bottom":  # it stands on the picture, and takes more rows
        large.layout.margin.t += 36
    large.layout.font.size = 13 * factor
    for axis in [*large.select_xaxes(), *large.select_yaxes()]:
        axis.title.font.size = 13 * factor
        axis.tickfont.size = (axis.tickfont.size or 12) * factor
        axis.title.standoff = 8
    for note in large.layout.annotations:
        note.font.size = (note.font.size or 13) * factor
    texts = large.select_traces(
        lambda trace: trace.type == "bar" or "text" in (getattr(trace, "mode", None) or "")
    )
    for trace in texts:
        trace.textfont.size = (trace.textfont.size or 12) * factor
    return large


def heading_height(finding: str, reading: str = "") -> int:
    """Pixels that :func:`title` needs at the top of a figure."""
    lines = len(_wrap(finding, _FINDING_WIDTH)) + len(_wrap(reading, _READING_WIDTH))
    return 24 + 18 * lines


def narrow(text: str) -> str:
    """Break an entry of a legend so that a narrow figure does not cut it off."""
    return "<br>".join(_wrap(text, _FINDING_WIDTH))


def _wrap(text: str, width: float) -> list[str]:
    """Break text into lines of at most that many characters, where it can be without one word alone at the end."""
    lines = textwrap.wrap(text, int(width))
    longest = max(map(len, text.split()), default=1)
    narrower = int(width)
    while len(lines) > 1 and " " not in lines[-1] and narrower > longest:
        narrower -= 1
        other = textwrap.wrap(text, narrower)
        if len(other) > len(lines):
            break
        lines = other
    return lines


def visible_token(token: str) -> str:
    """Write a token so that it reads as words in a hover box: spaces and line ends shown, HTML escaped."""
    text = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def pace(ratio: float, other: str = "") -> str:
    """Say how fast something is beside the other: 2.0 times faster than it, as fast as it, 1.5 times slower than it."""
    times = number(max(ratio, 1 / ratio))
    if times == "1.0":
        return f"as fast as {other}" if other else "as fast"
    words = f"{times} times {'faster' if ratio > 1 else 'slower'}"
    return f"{words} than {other}" if other else words


def number(value: float) -> str:
    """Write a number with two significant digits the way a sentence would: 0.043, 1.3, 120, 1,500.

    One digit is enough below 0.0001, and below a millionth that it is so.
    """
    if value == 0:
        return "0"
    if abs(value) < 1e-6:
        return "under 0.000001"
    if abs(value) < 1e-4:
        return f"{value:.{-math.floor(math.log10(abs(value)))}f}"
    if abs(value) >= 99.5:
        return f"{value:,.0f}"
    return f"{value:#.2g}".rstrip(".")


def percent(value: float) -> str:
    """Write a share in percent with two significant digits, as ``number`` does."""
    return f"{number(100 * value)}%"


def palette_scale(colours: Sequence[str]) -> list[tuple[float, str]]:
    """Make a stepped colour scale: with cmin -0.5 and cmax len - 0.5, index i gets exactly ``colours[i]``.

    Thousands of marks are coloured much faster by number than by name: plotly checks every name.
    """
    n = len(colours)
    return [(edge / n, colour) for i, colour in enumerate(colours) for edge in (i, i + 1)]


def cycle(colours: Sequence[str], indices: Sequence[int]) -> list[str]:
    """Look up one colour per index, starting over when the set is used up."""
    return [colours[int(i) % len(colours)] for i in indices]
