"""A step of training as lanes, process below process: what computes, what travels, and what waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from multipole_lab.figures.common import theme
from multipole_lab.suggesting import suggesting

COLOURS = {"compute": theme.ORANGE, "messages": theme.SKY, "host": theme.PURPLE}


@suggesting
def step(profiles: Sequence[Mapping], detail: str = "") -> go.Figure:
    """Draw one step of training, recorded by ``multipole-lab train --profile``, with the lanes of every process.

    How to read it: time goes to the right. Where a process's lane of computing is empty, it waits. A message below
    a full lane costs nothing, for the process computes while it travels; one below an empty lane is waited for.

    Parameters
    ----------
    profiles : what ``profile.json``, ``profile-1.json`` and so on hold, of one run on one computer, at least one.
    detail : what was recorded, in words.

    Raises
    ------
    ValueError : no profile, or one without lanes, as older versions wrote them.
    """
    if not profiles:
        raise ValueError("profiles has none; at least one is needed")
    for place, profile in enumerate(profiles):
        if "lanes" not in profile:
            raise ValueError(
                f"profiles[{place}] has no 'lanes': record it again with `multipole-lab train --profile`"
            )
    profiles = sorted(profiles, key=lambda profile: profile["rank"])
    began = min(profile["began_s"] for profile in profiles)
    longest = max(profile["lanes"]["step"][0][1] for profile in profiles)
    finding = _finding(profiles)
    rows = [(p, lane) for p in profiles for lane in COLOURS if lane in p["lanes"]]
    fig = go.Figure(layout={"template": theme.TEMPLATE, "height": 150 + 44 * len(rows), "uirevision": "step"})
    for profile, lane in rows:
        at = np.array(profile["lanes"][lane])
        fig.add_trace(
            go.Bar(
                base=(at[:, 0] + 1e3 * (profile["began_s"] - began)).tolist(),
                x=at[:, 1] - at[:, 0],
                y=[f"rank {profile['rank']}, {lane}"] * len(at),
                orientation="h",
                marker={"color": COLOURS[lane], "line": {"width": 0}},
                width=0.8,
                hovertemplate="%{y}: %{x:,.2f} ms from %{base:,.2f} ms on<extra></extra>",
                showlegend=False,
            )
        )
    fig.update_layout(
        title=theme.title(finding, detail),
        margin={"t": theme.heading_height(finding, detail) + 12},
        barmode="overlay",
        xaxis={
            "title": {"text": "milliseconds from the beginning of the step"},
            "range": [0, longest * 1.02],
        },
        yaxis={"autorange": "reversed", "showgrid": False},
    )
    return fig


def _finding(profiles: Sequence[Mapping]) -> str:
    """Who computes for how much of the step, and how much of the messages' time that covers."""
    busy = {p["rank"]: _length(p["lanes"].get("compute", [])) / p["lanes"]["step"][0][1] for p in profiles}
    low, high = (pick(busy, key=busy.get) for pick in (min, max))
    if len(profiles) == 1:
        claim = f"Computing takes {theme.percent(busy[low])} of the step"
    else:
        most, least = theme.percent(busy[high]), theme.percent(busy[low])
        claim = f"Rank {high} computes for {most} of the step, rank {low} for {least}"
    travelling = sum(_length(p["lanes"].get("messages", [])) for p in profiles)
    if not travelling:
        return f"{claim}; no message is sent"
    covered = sum(_shared(p["lanes"].get("compute", []), p["lanes"].get("messages", [])) for p in profiles)
    return f"{claim}; {theme.percent(covered / travelling)} of the messages' time lies below computing"


def _length(intervals: Sequence[Sequence[float]]) -> float:
    return sum(end - begin for begin, end in intervals)


def _shared(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """For how long intervals of both kinds go on at once; those of each kind lie apart."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in some for b in others)
