"""Two trainings side by side: the same loss a step, and what it cost in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .common import theme

LOOKS = {"exact": (theme.EXACT, "circle", "exact"), "muse": (theme.TILTED, "square", "MuSe")}
# Steps that a smoothed loss remembers: a tenth of the run, at most this many.
MEMORY = 20


def training(
    losses: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float], Sequence[float]]]],
    heldout: Mapping[str, Sequence[tuple[Sequence[int], Sequence[float]]]],
    summary: Mapping[str, float],
    method: str = "MuSe",
    machine: str = "",
) -> go.Figure:
    """Draw training and held-out loss against the step, and against the time spent in steps.

    How to read it: a thin line is the loss of the batch, smoothed, one line a seed; a mark is the loss on held-out
    text. On the left both sides have learned from the same tokens at the same place: lines that lie on each other say
    that the approximation costs no quality. On the right they stand where the clock stood: the line that ends earlier
    was the cheaper one.

    Parameters
    ----------
    losses : for "exact" and "muse", for each seed, three rows: steps, training loss, seconds of each step.
    heldout : likewise steps and held-out loss.
    summary : means over the seeds, in percent: ``heldout_loss_difference``, ``seconds_difference``,
        ``attention_seconds_difference``; empty while nothing is finished.
    method : the approximation, in words. machine : the device that was trained on and its precision.
    """
    finding, reading = _words(summary, method, machine, sum(len(seeds) for seeds in losses.values()) // 2)
    top = theme.heading_height(finding, reading) + 58
    fig = make_subplots(cols=2, rows=1, shared_yaxes=True, horizontal_spacing=0.06)
    fig.update_layout(template=theme.TEMPLATE, height=470, uirevision="training")
    for side, (colour, symbol, words) in LOOKS.items():
        for i, (steps, loss, seconds) in enumerate(losses.get(side, ())):
            clock = np.cumsum(_numbers(seconds) * np.diff(np.asarray([0, *steps])))
            smooth = _smooth(_numbers(loss))
            for column, x in ((1, steps), (2, clock)):
                fig.add_trace(
                    go.Scatter(
                        x=x,
                        y=smooth,
                        mode="lines",
                        line={"color": colour, "width": 1.4, "dash": "solid" if side == "exact" else "dot"},
                        name=f"{words}, training",
                        legendgroup=f"{side} training",
                        showlegend=column == 1 and i == 0,
                        hovertemplate=f"{words}<br>%{{y:,.3f}}<extra></extra>",
                    ),
                    row=1,
                    col=column,
                )
            looked, held = heldout[side][i]
            at = np.interp(looked, steps, clock) if len(steps) else []
            for column, x in ((1, looked), (2, at)):
                fig.add_trace(
                    go.Scatter(
                        x=x,
                        y=_numbers(held),
                        mode="markers",
                        marker={
                            "color": colour if side == "exact" else theme.CLEAR,
                            "symbol": symbol,
                            "size": 8 if side == "exact" else 11,
                            "line": {"color": colour, "width": 2},
                        },
                        name=f"{words}, held out",
                        legendgroup=f"{side} heldout",
                        showlegend=column == 1 and i == 0,
                        hovertemplate=f"{words}, held-out text<br>%{{y:,.4f}}<extra></extra>",
                    ),
                    row=1,
                    col=column,
                )
    fig.update_xaxes(title_text="step", row=1, col=1)
    fig.update_xaxes(title_text="seconds spent in steps", row=1, col=2)
    fig.update_yaxes(title_text="loss (nats a token)", row=1, col=1)
    fig.update_layout(
        title=theme.title(finding, reading), margin={"t": top}, legend={"y": 1.0, "yanchor": "bottom"}
    )
    return fig


def _words(summary, method, machine, seeds) -> tuple[str, str]:
    """State loss and time as they came out, for better or worse."""
    count = "one seed" if seeds == 1 else f"{seeds} seeds, a line each"
    if "heldout_loss_difference" not in summary or "attention_seconds_difference" not in summary:
        reading = f"{method} against exact attention, {count}, on {machine}." if machine else ""
        return "Training exact attention and MuSe, step by step in turns", reading
    loss, time, attention = (
        summary[f"{name}_difference"] for name in ("heldout_loss", "seconds", "attention_seconds")
    )

    def change(percent: float) -> str:
        return f"{abs(percent):.1f}% {'less' if percent < 0 else 'more'}"

    losses = "Held-out loss the same to 0.01%" if abs(loss) < 0.005 else f"Held-out loss {loss:+.2f}%"
    finding = f"{losses}; {change(attention)} time in attention, {change(time)} in all"
    how = "times are medians of a step, after the first few"
    return finding, f"{method} against exact attention, {count}, in turns on {machine}; {how}."


def _numbers(values) -> np.ndarray:
    """Floats; what JSON has as null is a NaN."""
    return np.asarray([np.nan if x is None else x for x in values], dtype=float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """An exponential mean that starts at the first value."""
    if len(values) == 0:
        return values
    keep = 1 - 1 / max(1.0, min(MEMORY, len(values) / 10))
    smooth, out = values[0], np.empty_like(values)
    for i, value in enumerate(values):
        if np.isfinite(value):
            smooth = value if not np.isfinite(smooth) else keep * smooth + (1 - keep) * value
        out[i] = smooth
    return out
