"""What a panel leaves in a notebook for a reader without its front end: a picture and its words."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from ipywidgets.widgets.widget import Widget

from multipole_lab.figures.png import png, warm_up
from multipole_lab.figures.theme import CONFIG

if TYPE_CHECKING:
    from .base import Panel

# "png" (the default), "none", or "page": a figure to hover over, for a page that has plotly.js itself.
VARIABLE = "MULTIPOLE_LAB_PICTURES"
_VIEW = "application/vnd.jupyter.widget-view+json"


def prepare_picture() -> None:
    """Start the browser that draws the picture while the panel computes; only where a notebook runs."""
    if _wanted() == "png" and _in_kernel():
        warm_up()


def leave_picture(panel: Panel, data: dict) -> dict | tuple[dict, dict]:
    """Add to a display's data what a reader without ipywidgets sees.

    Without a live front end, as when a notebook is executed for a page, work under way is finished first. With one
    the reader is not kept waiting: a panel that still measures leaves its words only.
    """
    wanted = _wanted()
    live = Widget._control_comm is not None  # a front end that draws widgets has announced itself
    if wanted != "none" and not live:
        panel.figure()
    data = {**data, "text/plain": f"{panel.name} panel: {panel.summary}"}
    if wanted == "page":
        page = panel.figure().to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
        data.pop(_VIEW, None)
        return {**data, "text/html": page}
    if wanted == "png" and _in_kernel() and (panel.done or not live):
        picture = png(panel.figure())
        if picture is not None:
            return {**data, "image/png": base64.b64encode(picture).decode()}, {}
    return data


def _wanted() -> str:
    """What the environment asks for."""
    return os.environ.get(VARIABLE, "png")


def _in_kernel() -> bool:
    """Whether this is a notebook's kernel, whose displays are kept."""
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
