"""What a panel leaves in a notebook for a reader without its front end: a picture and its words."""

from __future__ import annotations

import base64
import os
import sys
from typing import TYPE_CHECKING

from ipywidgets.widgets.widget import Widget

from multipole_lab.figures.common.png import png
from multipole_lab.figures.common.theme import CONFIG

if TYPE_CHECKING:
    from .base import Panel

# "png" (the default), "none", or "page": a figure to hover over, for a page that has plotly.js itself.
VARIABLE = "MULTIPOLE_LAB_PICTURES"
_VIEW = "application/vnd.jupyter.widget-view+json"


def leave_picture(panel: Panel, data: dict) -> dict | tuple[dict, dict]:
    """Add to a display's data what a reader without ipywidgets sees.

    Where a notebook is executed for a page, work under way is finished and a picture is drawn. A person at a live front
    end has the panel itself and is kept waiting for neither: the panel leaves its words only.
    """
    wanted, kernel = os.environ.get(VARIABLE, "png"), _kernel()
    live = _live(kernel)
    if wanted != "none" and not live:
        panel.figure()
    data = {**data, "text/plain": f"{panel.name} panel: {panel.summary}"}
    if wanted == "page":
        page = panel.figure().to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
        data.pop(_VIEW, None)
        return {**data, "text/html": page}
    metadata = _manager()
    if wanted == "png" and kernel is not None and not live:
        picture = png(panel.figure())
        if picture is not None:
            return {**data, "image/png": base64.b64encode(picture).decode()}, metadata
    return (data, metadata) if metadata else data


def _manager() -> dict:
    """The mark by which Colab draws widgets that are not ipywidgets' own, as the figure in every panel is.

    Colab sets it on what ``display`` shows; the last value of a cell is shown in another way. The first cell of a
    notebook may have been left out, so the manager is switched on here, too.
    """
    output = sys.modules.get("google.colab.output")
    if output is None:
        return {}
    output.enable_custom_widget_manager()
    url = getattr(getattr(output, "_widgets", None), "_installed_url", None)
    return {_VIEW: {"colab": {"custom_widget_manager": {"url": url}}}} if url else {}


def _kernel() -> object | None:
    """The notebook's kernel, whose displays are kept, if this is one."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)


def _live(kernel: object | None) -> bool:
    """Whether a person waits for this cell, rather than a program that executes a notebook.

    A front end says with each request whether its user can be asked something, and may announce that it draws widgets
    (no proof of none: JupyterLab does so when a kernel starts, which has not yet loaded ipywidgets).
    """
    if Widget._control_comm is not None or "VOILA_REQUEST_URL" in os.environ:
        return True
    request = kernel.get_parent() if kernel is not None else {}
    return bool(request.get("content", {}).get("allow_stdin", False))
