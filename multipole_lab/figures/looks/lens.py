"""What one query looks at: the words and clusters that weigh most, under exact attention and an approximation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.printing import count
from multipole_lab.suggesting import suggesting

from ..common import theme

FAINTEST = 1e-4  # shares below this are drawn at the edge
_ROW = 24  # pixels
_RING = {"symbol": "circle-open", "size": 14, "color": theme.TEXT, "line": {"width": 2}}
_DOTS = ("one by one", theme.EXACT), ("in a cluster", theme.TILTED)


@suggesting
def lens(
    tokens: Sequence[str],
    query: int,
    exact: Float[np.ndarray, " N"],
    approximate: Float[np.ndarray, " N"],
    cluster: Int[np.ndarray, " N"],
    moved: Int[np.ndarray, " N"],
    names: Mapping[int, Sequence[str]],
    error: float,
    name: str = "MuSe",
    rows: int = 10,
) -> go.Figure:
    """Draw what a query looks at: word by word on the left, cluster by cluster on the right.

    How to read it: a row is a word, or a cluster with the words that are typical of it, and further right means more
    attention (each step of the scale is ten times more). The ring is exact attention, the dot what the approximation
    makes of it, and the line between them the mistake. A blue dot is a key that is summed itself, an orange one a key
    that is seen through its cluster. A triangle points to where a word has moved that gained or lost weight.

    Parameters
    ----------
    tokens : the text, at least N. query : its position.
    exact, approximate : [N]. The weight of every key, 0 to 1.
    cluster : [N]. The number of the cluster through which a key is seen; -1 for a key that is summed itself, -2 for
        one that the query does not see.
    moved : [N]. 1 for a key that gained weight, -1 for one that lost some, else 0.
    names : the words that are typical of a cluster, by its number.
    error : relative squared error of the query's output.
    name : the approximation, in words.
    rows : words, and clusters, that are drawn at most.
    """
    parts = _parts(exact, approximate, cluster, rows)
    finding, reading = _words(tokens, query, exact, approximate, cluster, names, error, name)
    best = np.argsort(-np.maximum(exact, approximate), kind="stable")[: min(rows, int((cluster > -2).sum()))]
    weights = np.array([[exact[part].sum(), approximate[part].sum()] for part in parts.values()]).T
    said = [_word(tokens[i]) for i in best], [_part(n, int(p.sum()), names) for n, p in parts.items()]
    more = (
        [f"position {i:,}, {_seen(cluster[i], names)}" for i in best],
        [count(int(part.sum()), "key") for part in parts.values()],
    )
    traces = [
        *_legend(),
        *_rows(
            1, np.stack([exact[best], approximate[best]]), cluster[best] < 0, moved[best], said[0], more[0]
        ),
        *_rows(2, weights, np.array(list(parts)) < 0, np.zeros(len(parts), int), said[1], more[1]),
    ]
    top = theme.heading_height(finding, reading) + 64  # three rows of the legend in a narrow window
    layout = {"height": top + _ROW * rows + 56, "uirevision": "lens",
              "title": theme.title(finding, reading), "margin": {"t": top, **_sides(*said)},
              "legend": {"y": 1.0, "yanchor": "bottom"}}  # fmt: skip
    for i, (labels, what) in enumerate(zip(said, ("word", "cluster"), strict=True), 1):
        layout[f"xaxis{i}"] = {
            "type": "log", "range": [np.log10(FAINTEST) - 0.15, 0.3], "tickvals": [1e-3, 1e-2, 0.1, 1],
            "ticktext": ["", "1%", "", "100%"], "domain": [0.51 * (i - 1), 0.49 + 0.51 * (i - 1)],
            "anchor": f"y{i}", "title": {"text": f"by {what}"},
        }  # fmt: skip
        layout[f"yaxis{i}"] = {
            "range": [rows - 0.4, -0.6], "tickmode": "array", "showgrid": False, "zeroline": False,
            "tickvals": list(range(len(labels))), "ticktext": labels, "side": ("left", "right")[i - 1],
            "anchor": f"x{i}",
        }  # fmt: skip
    return theme.unchecked(traces, layout)


def _sides(*labels: Sequence[str]) -> dict[str, int]:
    """Margins in which the labels of both sides have room: plotly draws twice where it has to find that out itself.

    In steps, so that the picture keeps its place from one word to the next.
    """
    widths = (
        max((sum(12 if ord(c) > 0x1100 else 7 for c in words) for words in side), default=0)
        for side in labels
    )
    return {side: 16 + 28 * math.ceil(width / 28) for side, width in zip("lr", widths, strict=True)}


def _parts(exact, approximate, cluster, rows) -> dict[int, np.ndarray]:
    """Which keys are  (-1), and which are seen through each of the heaviest clusters."""
    heavy = {}
    for number in np.unique(cluster[cluster >= -1]):
        of = cluster == number
        heavy[int(number)] = (max(exact[of].sum(), approximate[of].sum()), of)
    best = sorted(heavy, key=lambda number: (number >= 0, -heavy[number][0]))[:rows]
    return {number: heavy[number][1] for number in best}


def _words(tokens, query, exact, approximate, cluster, names, error, name) -> tuple[str, str]:
    """Say in plain words through what the query sees the word that weighs most of those in clusters."""
    own = f"“{_word(tokens[query])}”"
    itself, far = cluster == -1, cluster >= 0
    seen = int((cluster > -2).sum())
    if not far.any():
        return (
            f"{own} sees all {count(seen, 'key')} one by one",
            "Nothing is seen through a cluster: this is exact.",
        )
    key = int(np.where(far, exact, -1).argmax())
    of = cluster == cluster[key]
    others = [word for word in names.get(int(cluster[key]), ()) if word != tokens[key].strip().lower()]
    such = f" with {_list(others)}" if others else ""
    finding = (
        f"{own} sees “{_word(tokens[key])}” through a cluster of {count(int(of.sum()), 'key')}{such}: "
        f"{_percent(approximate[of].sum())} of its attention, exactly {_percent(exact[of].sum())}"
    )
    reading = (
        f"{name} sums {int(itself.sum()):,} of {count(seen, 'key')} one by one ({_percent(exact[itself].sum())} of the "
        f"attention) and {int(far.sum()):,} through {len(np.unique(cluster[far])):,} clusters. Error of this word: "
        f"{_percent(error)}."
    )
    return finding, reading


def _rows(column, weights, itself, moved, labels, more) -> list[dict]:
    """The lines from exact to approximate, the rings, and the dots by how the keys are seen."""
    x, y = np.maximum(weights, FAINTEST), np.arange(weights.shape[1])
    own = "" if column == 1 else column
    axes = {"type": "scatter", "xaxis": f"x{own}", "yaxis": f"y{own}", "showlegend": False}
    gap = np.full(len(y), np.nan)
    lines = {
        "x": np.stack([*x, gap], 1).ravel(), "y": np.repeat(y.astype(float), 3), "mode": "lines", "hoverinfo": "skip",
        "line": {"color": theme.RULE, "width": 3}, "name": "difference", **axes,
    }  # fmt: skip
    hover = "<b>%{text}</b>, %{customdata}<extra></extra>"
    data = np.array([
        f"{words}<br>exactly {_percent(pair[0])}, here {_percent(pair[1])}"
        for words, pair in zip(more, weights.T, strict=True)
    ])  # fmt: skip
    common = {"mode": "markers", "hovertemplate": hover, **axes}
    rings = {
        "x": x[0],
        "y": y,
        "text": labels,
        "customdata": data,
        "marker": _RING,
        "name": "exactly",
        **common,
    }
    symbols = np.array(["circle", "triangle-right", "triangle-left"])  # -1 is the last
    dots = [
        {
            "x": x[1][own], "y": y[own], "text": [labels[i] for i in np.flatnonzero(own)], "customdata": data[own],
            "name": words, **common,
            "marker": {"size": 10, "color": colour, "symbol": symbols[moved[own]].tolist(), "opacity": 1},
        }
        for own, (words, colour) in ((itself, _DOTS[0]), (~itself, _DOTS[1]))
    ]  # fmt: skip
    return [lines, rings, *dots]


def _legend() -> list[dict]:
    """Marks that stand in the legend alone, whatever shape the first one of a picture has."""
    marks = [("exactly", _RING), *((w, {"size": 10, "color": colour}) for w, colour in _DOTS)]
    common = {"type": "scatter", "x": [None], "y": [None], "mode": "markers"}
    return [{"marker": mark, "name": words, **common} for words, mark in marks]


def _word(token: str, most: int = 14) -> str:
    """A token as a word of a sentence; what is nothing but space is made visible."""
    text = theme.visible_token(token.strip() or token)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _part(number: int, size: int, names) -> str:
    """What a row of clusters is called."""
    if number < 0:
        return f"one by one · {size:,}"
    return f"{' '.join(_word(word, 10) for word in names.get(number, ())[:2])} · {size:,}"


def _seen(number: int, names) -> str:
    """How a key is seen."""
    if number < 0:
        return "one by one"
    return f"in a cluster of {_list(names[number])}" if names.get(number) else "in a cluster"


def _list(words: Sequence[str]) -> str:
    """Words in quotes, the last one behind an "and"."""
    quoted = [f"“{_word(word)}”" for word in words]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _percent(share: float) -> str:
    """A share with as many digits as it needs: 12%, 1.2%, 0.04%."""
    return "under 0.01%" if 0 < share < 1e-4 else theme.percent(share)
