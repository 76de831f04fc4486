"""A text that is being written: what every word's step read, and how long it took beside a dense cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from multipole_lab.figures.common import theme
from multipole_lab.suggesting import suggesting


@suggesting
def writing(
    words: Sequence[str],
    dense_words: Sequence[str],
    length: Int[np.ndarray, " T"],
    always: Int[np.ndarray, " T"],
    opened: Int[np.ndarray, " T"],
    centroids: Int[np.ndarray, " T"],
    ms: Float[np.ndarray, " T"],
    dense_ms: Float[np.ndarray, " T"],
    error: Float[np.ndarray, " T"],
    where: str,
    machine: str,
    live: bool = True,
    detail: str = "",
    word: int = 0,
) -> go.Figure:
    """Draw what each step of a clustered cache read, and below the time that it took beside a dense cache.

    How to read it: a bar is a word, and the line above it is what a dense cache reads for it: every key. Sky blue are
    keys that are always read exactly, the first ones and the latest; orange those of clusters that the step opened;
    purple are centroids, each of which stands for a whole cluster. Below are milliseconds: the first word is slow,
    for its step also clusters the prompt.

    Parameters
    ----------
    words, dense_words : T tokens, as each side wrote them.
    length : [T]. Keys in the cache at each.
    always, opened, centroids : [T]. What one key head read: keys that are always exact, keys of opened clusters, and
        centroids looked at.
    ms, dense_ms : [T]. Milliseconds of the step over the clustered cache and over the dense one.
    error : [T]. Relative squared error of the layer's output, NaN where it is not known.
    where : whose reading is drawn, in words. machine : what times are of, in words. detail : more about them.
    live : whether a model wrote; otherwise words are replayed and times are of one layer.
    word : the one that is framed and described, 0..T-1.
    """
    told = _words(
        words, dense_words, length, always + opened, ms, dense_ms, error, where, machine, live, word
    )
    finding, reading = told[0], f"{told[1]} {detail}".strip()
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 560, "uirevision": "writing"})
    place, said = np.arange(1, len(words) + 1), [theme.visible_token(one) for one in words]
    for values, name, colour in (
        (always, "always read", theme.SKY),
        (opened, "opened", theme.ORANGE),
        (centroids, "centroids", theme.PURPLE),
    ):
        fig.add_trace(
            go.Bar(
                x=place, y=values, text=said, textposition="none", name=name,
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate=f"word %{{x}}, %{{text}}<br>{name}: %{{y:,}}<extra></extra>",
            )
        )  # fmt: skip
    for values, name, colour, dash, axis in (
        (length, "all keys", theme.TEXT, "solid", ""),
        (dense_ms, "dense, ms", theme.BLUE, "solid", "2"),
        (ms, "clustered, ms", theme.VERMILION, "dot", "2"),
    ):
        fig.add_trace(
            go.Scatter(
                x=place, y=values, text=said, mode="lines+markers" if axis else "lines", name=name,
                line={"color": colour, "width": 2, "dash": dash}, marker={"size": 5, "color": colour},
                xaxis=f"x{axis}", yaxis=f"y{axis}",
                hovertemplate=f"word %{{x}}, %{{text}}<br>{name}: %{{y:,.3g}}<extra></extra>",
            )
        )  # fmt: skip
    _place(fig, place, said, length, ms, dense_ms, word)
    top = theme.heading_height(finding, reading) + 72  # three rows of the legend in a narrow window
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _words(
    words, dense_words, length, exact, ms, dense_ms, error, where, machine, live, word
) -> tuple[str, str]:
    """Say where the texts part, how one word was read, and what a word takes."""
    parted = next(
        (i for i, pair in enumerate(zip(words, dense_words, strict=True)) if pair[0] != pair[1]), None
    )
    if not live:
        finding = "Replayed, not written: without a model its next words are the story's own"
    elif not words:
        finding = "The model reads the prompt"
    elif parted is None:
        finding = f"{len(words)} word{'s' * (len(words) != 1)} written, the same over both caches"
    else:
        pair = " / ".join(f"“{theme.visible_token(one[parted])}”" for one in (words, dense_words))
        finding = f"The clustered cache leaves the dense one at word {parted + 1}: {pair}"
    if not words:
        return finding, f"On {machine}."
    off = "" if np.isnan(error[word]) else f", error {theme.number(float(error[word]))}"
    took, dense_took = (theme.number(float(np.median(side))) for side in (ms, dense_ms))
    reading = (
        f"For word {word + 1}, {where} read {exact[word]:,} of {length[word]:,} keys exactly{off}. "
        f"{'The whole model' if live else 'This layer alone'}: {took} ms a word, dense {dense_took} ms, "
        f"measured just now on {machine}."
    )
    return finding, reading


def _place(fig, place, said, length, ms, dense_ms, word) -> None:
    """Put what was read above and the times below, and frame the word whose reading is lit."""
    times = np.concatenate([ms, dense_ms, [1.0]]) if len(ms) == 0 else np.concatenate([ms, dense_ms])
    low, high = np.log10(max(times.min(), 1e-3)), np.log10(max(times.max(), 1e-3))
    end = max(len(place), 1) + 0.5
    if len(place):
        fig.add_shape(
            type="rect", x0=word + 0.5, x1=word + 1.5, y0=0, y1=1, yref="y domain", xref="x",
            line={"color": theme.TEXT, "width": 1.5}, name="word",
        )  # fmt: skip
    fig.update_layout(
        barmode="stack",
        bargap=0.15,
        xaxis={"tickvals": place, "ticktext": said, "tickangle": -60, "range": [0.5, end], "showgrid": False,
               "anchor": "y"},
        xaxis2={"range": [0.5, end], "showgrid": False, "showticklabels": False, "anchor": "y2", "matches": "x"},
        yaxis={"title": {"text": "rows read"}, "domain": [0.5, 1], "tickformat": ",",
               "range": [0, 1.05 * float(max(length, default=1))]},
        yaxis2={"title": {"text": "ms a word"}, "domain": [0, 0.28], "type": "log", "dtick": 1, "tickformat": ",~r",
                "anchor": "x2", "range": [float(np.floor(low)), float(np.ceil(high + 0.05))]},
        legend={"y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )  # fmt: skip
