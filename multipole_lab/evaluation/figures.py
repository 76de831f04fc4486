"""What an approximation costs a whole model: loss by position, answers found by depth, answers right by group."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.subplots import make_subplots

from multipole_lab.figures.common import theme

# Dense attention has the exact colour; the one that is nearest to it comes last.
COLOURS = (theme.TILTED, theme.GREEN, theme.VERMILION, theme.PURPLE, "#999999", theme.BLUE)
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def loss_by_position(
    edges: Int[np.ndarray, " P+1"],
    dense: Float[np.ndarray, " P"],
    losses: Mapping[str, Float[np.ndarray, " P"]],
    text: str,
) -> go.Figure:
    """Draw the loss by position in the context, and how far above dense attention each method is.

    How to read it: loss falls to the right as far as the model uses its longer context. The lower panel is what
    counts: percent above dense attention on the same tokens; zero is no loss at all.

    Parameters
    ----------
    edges : [P + 1]. Positions at which the parts of the context begin, and the end.
    dense : [P]. Mean loss of dense attention in each part, nats a token.
    losses : the same for each method, by its name.
    text : what was read, in words.
    """
    sizes = np.diff(edges)
    above = {name: 100 * (loss / dense - 1) for name, loss in losses.items()}
    finding, reading = _loss_words(edges, dense, losses, sizes, text)
    top = theme.heading_height(finding, reading) + 12
    fig = make_subplots(rows=2 if losses else 1, shared_xaxes=True, vertical_spacing=0.08)
    middle = (edges[:-1] + edges[1:]) / 2
    spans = [f"{a:,} to {b - 1:,}" for a, b in itertools.pairwise(edges)]
    for i, (name, loss) in enumerate({"dense": dense, **losses}.items()):
        look = _look(name, i)
        hover = f"{_plain(name)}<br>positions %{{customdata}}: %{{y:.4f}} nats<extra></extra>"
        fig.add_trace(go.Scatter(x=middle, y=loss, customdata=spans, hovertemplate=hover, name=_plain(name),
                                 legendgroup=name, mode="lines+markers", **look), 1, 1)  # fmt: skip
        if name in above:
            hover = f"{_plain(name)}<br>positions %{{customdata}}: %{{y:+.3f}}%<extra></extra>"
            fig.add_trace(go.Scatter(x=middle, y=above[name], customdata=spans, hovertemplate=hover,
                                     name=_plain(name), legendgroup=name, showlegend=False,
                                     mode="lines+markers", **look), 2, 1)  # fmt: skip
    rows = 2 if losses else 1
    fig.update_yaxes(title_text="loss (nats a token)", row=1, col=1)
    if losses:
        fig.update_yaxes(title_text="above dense (%)", zeroline=True, row=2, col=1)
    fig.update_xaxes(title_text="position in the context (tokens)", tickformat=",", row=rows, col=1)
    legend = 24 * (1 + sum(len(name) > 24 for name in losses)) + 40
    _frame(fig, finding, reading, top, 250 + 190 * (rows - 1) + legend)
    fig.update_layout(legend={"y": -52 / (190 * rows), "yanchor": "top"})
    return fig


def needle_grid(
    lengths: Sequence[int],
    depths: Sequence[float],
    found: Mapping[str, Float[np.ndarray, "D L"]],
    chance: float,
) -> go.Figure:
    """Draw how often the needle was found, by depth and length, one map a method.

    How to read it: each square is a place in the text; bright means the right answer was the likeliest of the options.
    The number in it is the share of trials. What dense attention misses too is the model's own limit.

    Parameters
    ----------
    lengths : [L]. Tokens of the text.
    depths : [D]. Where the needle stands, 0 the beginning and 1 the end.
    found : [D, L] for each method by its name: the share of needles found, NaN where nothing was tried.
    chance : the share that guessing finds.
    """
    names = list(found)
    shares = ", ".join(f"{name} {100 * np.nanmean(found[name]):.0f}%" for name in names)
    finding = f"Needles found: {shares}"
    reading = f"The right answer is the likeliest of the options; guessing finds {100 * chance:.3g}%."
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    top = theme.heading_height(finding, reading) + 30
    fig = make_subplots(rows=rows, cols=columns, subplot_titles=[_plain(n) for n in names], shared_yaxes=True,
                        vertical_spacing=0.22 / max(1, rows - 1), horizontal_spacing=0.06)  # fmt: skip
    for i, name in enumerate(names):
        row, column = i // columns + 1, i % columns + 1
        shown = np.where(np.isnan(found[name]), "", np.char.mod("%.2g", np.nan_to_num(found[name])))
        fig.add_trace(go.Heatmap(
            x=[f"{n:,}" for n in lengths], y=[f"{100 * d:.0f}%" for d in depths], z=found[name], text=shown,
            texttemplate="%{text}", zmin=0, zmax=1, colorscale=theme.SEQUENTIAL, xgap=2, ygap=2,
            showscale=i == 0, colorbar={"title": {"text": "found"}, "thickness": 12, "tickformat": ".0%"},
            hovertemplate="%{x} tokens, depth %{y}: %{z:.0%}<extra></extra>",
        ), row, column)  # fmt: skip
        fig.update_xaxes(title_text="tokens", type="category", showgrid=False, row=row, col=column)
        fig.update_yaxes(title_text="depth" if column == 1 else None, type="category", autorange="reversed",
                         showgrid=False, row=row, col=column)  # fmt: skip
    fig.update_annotations(font={"size": 13, "color": theme.TEXT})
    _frame(fig, finding, reading, top, 290 * rows)
    return fig


def accuracy(
    groups: Sequence[str],
    right: Mapping[str, Float[np.ndarray, " G"]],
    counts: Int[np.ndarray, " G"],
    chance: float,
    label: str,
) -> go.Figure:
    """Draw the share of right answers by group, one row of marks a method, with the level of guessing.

    How to read it: a mark is the share of right answers, its bar one standard error on both sides. Marks at the dotted
    line are guesses: there, equal accuracy says nothing about the approximation.

    Parameters
    ----------
    groups : [G]. Names of the groups.
    right : [G] for each method by its name: the share of right answers.
    counts : [G]. Questions in each group.
    chance : the share that guessing gets right.
    label : what the groups are, in words.
    """
    names = list(right)
    shares = ", ".join(f"{name} {100 * np.average(right[name], weights=counts):.0f}%" for name in names)
    finding = f"Right answers: {shares}"
    plural = "s" if np.sum(counts) > 1 else ""
    reading = f"{np.sum(counts):,} question{plural}. Bars: one standard error. Dotted: guessing, {100 * chance:.3g}%."
    top = theme.heading_height(finding, reading) + 12
    fig = go.Figure()
    place = np.arange(len(groups))
    width = 0.36 / max(1, len(names) - 1) if len(names) > 1 else 0
    for i, name in enumerate(names):
        look = _look(name, i)
        shift = width * (i - (len(names) - 1) / 2)
        error = np.sqrt(right[name] * (1 - right[name]) / counts)
        fig.add_trace(go.Scatter(
            x=place + shift, y=right[name], error_y={"array": error, "thickness": 1.5, "width": 3},
            mode="markers", marker={**look["marker"], "size": 10}, line=look["line"], name=_plain(name),
            customdata=list(groups), hovertemplate=f"{_plain(name)}<br>%{{customdata}}: %{{y:.1%}}<extra></extra>",
        ))  # fmt: skip
    fig.add_hline(y=chance, line={"color": theme.RULE, "dash": "dot", "width": 1.5})
    fig.update_yaxes(title_text="right answers", tickformat=".0%", range=[-0.03, 1.05])
    fig.update_xaxes(title_text=label, tickvals=place, ticktext=[_plain(g) for g in groups], showgrid=False,
                     zeroline=False, range=[-0.6, len(groups) - 0.4])  # fmt: skip
    _frame(fig, finding, reading, top, 320 + 24 * (1 + sum(len(n) > 24 for n in names)))
    fig.update_layout(legend={"y": -0.3, "yanchor": "top"})
    return fig


def _loss_words(edges, dense, losses, sizes, text) -> tuple[str, str]:
    mean = float(np.average(dense, weights=sizes))
    reading = f"{text}, {int(edges[-1]):,} tokens. Dense attention: {mean:.4f} nats a token."
    if not losses:
        return f"Dense attention: loss {mean:.3f} on {text}", reading
    above = {name: 100 * (float(np.average(loss, weights=sizes)) / mean - 1) for name, loss in losses.items()}
    best = min(above, key=above.get)
    return f"Loss above dense attention: {', '.join(f'{n} {a:+.2f}%' for n, a in above.items())}" if len(
        above
    ) <= 3 else f"Least above dense attention: {best}, {above[best]:+.2f}%", reading


def _look(name: str, i: int) -> dict:
    """Colour, dash and symbol: three ways to tell lines apart."""
    if name == "dense":
        return {
            "line": {"color": theme.EXACT, "width": 3},
            "marker": {"color": theme.EXACT, "symbol": "circle"},
        }
    colour = COLOURS[(i - 1) % len(COLOURS)]
    return {
        "line": {"color": colour, "width": 2, "dash": DASHES[(i - 1) % len(DASHES)]},
        "marker": {"color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
    }


def _plain(text: str) -> str:
    """Text that plotly does not read as markup."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _frame(fig: go.Figure, finding: str, reading: str, top: int, height: int) -> None:
    fig.update_layout(
        template=theme.TEMPLATE,
        height=top + height,
        title=theme.title(_plain(finding), _plain(reading)),
        margin={"t": top},
    )
