"""Move a figure on the page to a new state by sending only what changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

# Set once when the figure is made. Comparing the template's hundreds of entries would cost most of a move; a
# new height would make plotly freeze the width too, and the figure would no longer follow its window.
_FIXED = ("template", "autosize", "height", "uid")


def sync_figure(shown: go.FigureWidget, wanted: go.Figure) -> int:
    """Make ``shown`` look like ``wanted`` in one ``batch_update()``; return how many properties were sent.

    Traces are updated in place while their number and types agree, so that zoom, camera and hover survive a
    move of a slider. Otherwise (2-D to 3-D, say) they are replaced.
    """
    old, new = shown._data, [trace.to_plotly_json() for trace in wanted.data]
    layout = _changes(shown._layout, wanted.to_plotly_json()["layout"])
    replace = [trace["type"] for trace in old] != [trace["type"] for trace in new]
    if replace:
        shown.data = ()
        shown.add_traces(list(wanted.data))
    sent = 0
    with shown.batch_update():
        if not replace:
            for trace, before, after in zip(shown.data, old, new, strict=True):
                for path, value in _changes(before, after).items():
                    trace[path] = value
                    sent += 1
        for path, value in layout.items():
            shown.layout[path] = value
            sent += 1
    return sent


def _changes(old: dict, new: dict, prefix: str = "") -> dict[str, Any]:
    """List the leaves of ``new`` that differ from ``old``, and None for those it no longer has, by path."""
    found: dict[str, Any] = {}
    for key in {**old, **new}:
        path = f"{prefix}{key}"
        if key in _FIXED:
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found.update(_changes(before, after, f"{path}."))
        elif not _same(before, after):
            found[path] = after
    return found


def _same(a: Any, b: Any) -> bool:
    """Compare two property values; arrays and lists entry by entry."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if a is None or b is None:
            return False
        gaps = all(np.asarray(x).dtype.kind == "f" for x in (a, b))  # NaN is a gap, and a gap is like another
        return np.array_equal(a, b, equal_nan=gaps)
    return a == b or (a in (None, {}) and b in (None, {}))  # plotly leaves {} where a dict was cleared
