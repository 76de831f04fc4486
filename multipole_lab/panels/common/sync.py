"""Move a figure on the page to a new state by sending only what changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from .shown import Shown, parts_of

# Set once when the figure is made. Comparing the template's hundreds of entries would cost most of a move; a
# new height would make plotly freeze the width too, and the figure would no longer follow its window.
_FIXED = ("template", "autosize", "height", "uid")


def sync_figure(shown: Shown, wanted: go.Figure, again: bool = False) -> int:
    """Make ``shown`` look like ``wanted`` in one message; return how many properties were sent.

    What differs from the figure wanted before is sent, so that what a reader did to the picture stays: zoom, camera, a
    trace hidden by its legend. Traces are updated in place while their number and types agree; otherwise (2-D to 3-D,
    say) they are replaced.

    Parameters
    ----------
    again : also put axes and cameras back to where the figure wants them, in a message of its own.
    """
    before, now = shown.wanted, parts_of(wanted)
    shown.wanted = now
    layout = changes(before["layout"], now["layout"])
    replace = [trace["type"] for trace in before["data"]] != [trace["type"] for trace in now["data"]]
    if replace:
        shown.data = ()
        shown.add_traces(list(wanted.data))
        pairs = []
    else:
        pairs = zip(before["data"], now["data"], strict=True)
    traces = {i: changed for i, (old, new) in enumerate(pairs) if (changed := changes(old, new))}
    shown.change(traces, layout)
    if again:
        shown.put_back(_places(shown, now["layout"]))
    return len(layout) + sum(map(len, traces.values()))


def _places(shown: Shown, wanted: dict) -> dict[str, Any]:
    """Ranges of axes and cameras as they are wanted, by path."""
    found: dict[str, Any] = {}
    for name in shown._layout:
        own = wanted.get(name, {})
        if name.startswith(("xaxis", "yaxis")):
            found[f"{name}.range"] = own.get("range")
            found[f"{name}.autorange"] = own.get("autorange", True if own.get("range") is None else None)
        elif name.startswith("scene"):
            found[f"{name}.camera"] = own.get("camera")
    return found


def changes(old: dict, new: dict, prefix: str = "") -> dict[str, Any]:
    """List the leaves of ``new`` that differ from ``old``, and None for those it no longer has, by path."""
    found: dict[str, Any] = {}
    for key in {**old, **new}:
        path = f"{prefix}{key}"
        if key in _FIXED:
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found.update(changes(before, after, f"{path}."))
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
