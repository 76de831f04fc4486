"""Causal attention as a hierarchy of blocks: which are exact, which are approximated, and where the error sits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import sample_colorscale

from multipole_lab.suggesting import suggesting

from .common import theme
from .common.triangle import around, rectangles

COLOURS = ("level", "error", "mass")


@suggesting
def blocks(
    tokens: int,
    leaf: int,
    errors: Sequence[Float[np.ndarray, " pairs"]],
    masses: Sequence[Float[np.ndarray, " pairs"]],
    rse: float,
    colour: str = "level",
    name: str = "MuSe",
) -> go.Figure:
    """Draw the lower triangle of queries and keys, cut into its blocks, and a bar for each level below.

    How to read it: a row is a query, a column a key, and a query sees the keys up to its own, so only the lower
    triangle counts. The small squares on the diagonal (*leaves*) are exact. Every other square is one block of
    far keys, approximated; each is twice as wide as those of the level before, which is why their number stays
    small. By ``level`` the colour tells how often the block was doubled; by ``error`` and ``mass`` (how much of its
    queries' attention falls into it) brighter is more. A bar is a level, in the level's colour: the error that its
    blocks would cause were they alone approximated.

    Parameters
    ----------
    tokens : N, the sequence. leaf : the size of an exact block.
    errors : for every level above the leaves, smallest blocks first, [pairs]: relative squared error from each
        block alone; block i has the queries from (2 i + 1) size and the keys from 2 i size, size = leaf 2^level.
    masses : the same for the share of softmax mass, 0 to 1; NaN for a block beyond the end.
    rse : relative squared error of the whole.
    colour : "level", "error" or "mass".
    name : the approximation, in words.

    Raises
    ------
    ValueError : another colour.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour: must be one of {', '.join(COLOURS)}, got {colour!r}")
    palette = _palette(len(errors))
    total = np.array([float(level.sum()) for level in errors])
    finding, reading = _words(tokens, leaf, total, rse, name)
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 660, "uirevision": "blocks"})
    _draw_grid(fig, leaf, errors, masses, colour, palette)
    _draw_outlines(fig, tokens, leaf, len(errors))
    _draw_levels(fig, leaf, total, palette)
    _place(fig, tokens)
    top = theme.heading_height(finding, reading) + 12
    fig.update_layout(title=theme.title(finding, reading), margin={"t": top})
    return fig


def _words(tokens, leaf, total, rse, name) -> tuple[str, str]:
    """State how much is exact and which level the error comes from."""
    if len(total) == 0:
        return "One leaf holds everything: all exact, no error", f"Make the leaf smaller than {tokens:,}."
    exact = (leaf + 1) / (tokens + 1)  # leaf (leaf + 1) / 2 pairs in each of tokens / leaf leaves
    worst = int(total.argmax())
    finding = f"{name}: error {theme.number(rse)} with {exact:.0%} of the pairs exact"
    if total.sum() > 0:
        finding += f"; {total[worst] / total.sum():.0%} of it from blocks of {leaf << worst:,} keys"
    return finding, "A row is a query, a column a key. Diagonal squares are exact; others are expanded."


def _palette(levels: int) -> list[str]:
    """Give the leaves the colour of exactness, and levels the sequential scale from dark to bright."""
    steps = np.linspace(0.25, 1, max(levels, 1))[:levels]
    return [theme.EXACT, *(sample_colorscale(theme.SEQUENTIAL, list(steps)) if levels else [])]


def _draw_grid(fig, leaf, errors, masses, colour, palette) -> None:
    """Add the triangle as cells of a leaf each: by level as numbered colours, else by the logarithm or share."""
    side = 1 << len(errors)
    level = np.full((side, side), np.nan)
    np.fill_diagonal(level, 0)
    value, said = np.full((side, side), np.nan), np.full((side, side), "", dtype=object)
    for i in range(side):
        said[i, i] = f"exact leaf<br>queries and keys {i * leaf:,} to {(i + 1) * leaf - 1:,}"
    for depth, (error, mass) in enumerate(zip(errors, masses, strict=True)):
        wide = 1 << depth
        for i in range(len(error)):
            rows, cols = (
                slice((2 * i + 1) * wide, (2 * i + 2) * wide),
                slice(2 * i * wide, (2 * i + 1) * wide),
            )
            if np.isnan(mass[i]):
                continue
            level[rows, cols] = depth + 1
            value[rows, cols] = mass[i] if colour == "mass" else np.log10(max(error[i], 1e-16))
            said[rows, cols] = (
                f"level {depth + 1}: {wide * leaf:,} queries from {rows.start * leaf:,}"
                f"<br>over {wide * leaf:,} keys from {cols.start * leaf:,}"
                f"<br>error from here {theme.number(float(error[i]))}"
                f"<br>share of attention {mass[i]:.0%}"
            )
    if colour == "level":
        look = {"z": _blank(level), "colorscale": theme.palette_scale(palette), "showscale": False,
                "zmin": -0.5, "zmax": len(palette) - 0.5}  # fmt: skip
    else:
        known = value[np.isfinite(value)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        low, high = (0.0, 1.0) if colour == "mass" else (low, max(high, low + 1))
        bar = {"thickness": 12, "len": 0.62, "y": 1, "yanchor": "top", "outlinewidth": 0}
        bar |= {"title": {"text": "share" if colour == "mass" else "error"}}
        if colour == "mass":
            bar |= {"tickformat": "~p", "tickmode": "auto", "tickvals": None, "ticktext": None}
        else:
            ticks = np.arange(np.ceil(low), np.floor(high) + 1)
            bar |= {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{10.0**t:g}" for t in ticks]}
        look = {"z": _blank(value), "colorscale": theme.SEQUENTIAL, "showscale": True, "zmin": low, "zmax": high,
                "colorbar": bar}  # fmt: skip
    fig.add_trace(
        go.Heatmap(x0=leaf / 2, dx=leaf, y0=leaf / 2, dy=leaf, text=said, hoverongaps=False,
                   hovertemplate="%{text}<extra></extra>", name="blocks", **look)
    )  # fmt: skip


def _draw_outlines(fig, tokens, leaf, levels) -> None:
    """Outline every block that is in the sequence, in one trace."""
    line = {"color": theme.RULE, "width": 1}
    edges = around(rectangles(tokens, leaf, levels))
    fig.add_trace(
        go.Scatter(**edges, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="edges")
    )


def _draw_levels(fig, leaf, total, palette) -> None:
    """Add a bar per level with its number; they are also the key to the colours."""
    names = ["leaf, exact", *(f"{leaf << i:,} keys" for i in range(len(total)))]
    values = np.array([0.0, *total])
    fig.add_trace(
        go.Bar(
            x=names,
            y=values,
            text=["≈ 0" if 0 < value < 1e-6 else theme.number(float(value)) for value in values],
            textposition="outside",
            textfont={"size": 11},
            constraintext="none",
            textangle=0,
            cliponaxis=False,
            marker={"color": palette, "line": {"width": 1, "color": theme.RULE}},
            hovertemplate="%{x}: error %{text}<extra></extra>",
            name="error of each level",
            showlegend=False,
            xaxis="x2",
            yaxis="y2",
        )
    )


def _place(fig, tokens) -> None:
    """Put the triangle above, queries downwards as in a matrix, and the bars below."""
    fig.update_layout(
        xaxis={"title": {"text": "key"}, "range": [0, tokens], "showgrid": False, "zeroline": False,
               "constrain": "domain"},
        yaxis={"title": {"text": "query"}, "range": [tokens, 0], "showgrid": False, "zeroline": False,
               "domain": [0.38, 1]},
        xaxis2={"title": {"text": "size of the blocks"}, "type": "category", "anchor": "y2", "showgrid": False},
        yaxis2={"title": {"text": "error"}, "domain": [0, 0.2], "anchor": "x2", "rangemode": "tozero", "nticks": 4,
                "tickformat": ",~g"},
        bargap=0.25,
    )  # fmt: skip


def _blank(grid: np.ndarray) -> np.ndarray:
    """None for NaN: a widget sends a grid as JSON, which has no NaN."""
    return np.where(np.isnan(grid), None, grid)
