"""A figure as a PNG, drawn by an installed Chromium or Chrome without the network."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import plotly.graph_objects as go

# The browser is kept for the next picture this long, then closed: a lecture hall's server has many kernels.
_KEEP_SECONDS = 30
_lock = threading.Lock()
_timer: threading.Timer | None = None
_absent = False


def warm_up() -> None:
    """Start the browser in the background, so that the first picture waits less for it."""
    with contextlib.suppress(Exception), _lock:
        if not _absent:
            _start()


def png(figure: go.Figure, width: int = 900, height: int | None = None) -> bytes | None:
    """Draw a figure on white, or return None where no Chromium, Chrome or kaleido is installed.

    The first picture takes seconds while the browser starts, each further one a third of a second.

    Parameters
    ----------
    width, height : in pixels; the figure's own height, or 450, by default.
    """
    global _absent
    if _absent or "VOILA_REQUEST_URL" in os.environ:
        return None
    still = go.Figure(figure)
    still.update_layout(paper_bgcolor="#ffffff", font_color="#444444")
    still.update_coloraxes(colorbar_tickfont_color="#444444")
    size = {"width": width, "height": int(height or figure.layout.height or 450), "scale": 1}
    try:
        with _lock:
            kaleido = _start()
            return kaleido.calc_fig_sync(still, opts={"format": "png", **size})
    except Exception as error:  # no browser, no kaleido, a browser that does not start: a picture is no must
        _absent = True
        print(
            f"No static picture of panels: {type(error).__name__}: {error}".splitlines()[0], file=sys.stderr
        )
        return None


def _start():
    """Start kaleido's server unless it runs, and have it stop when nothing has been drawn for a while."""
    global _timer
    import kaleido

    if _timer is None:
        # Without MathJax, which would come from the network; plotly.js comes from the installed plotly.
        page = kaleido.PageGenerator(mathjax=False)
        kaleido.start_sync_server(n=1, timeout=30, page_generator=page, silence_warnings=True)
    else:
        _timer.cancel()
    _timer = threading.Timer(_KEEP_SECONDS, _stop)
    _timer.daemon = True
    _timer.start()
    return kaleido


def _stop() -> None:
    """Close the browser."""
    global _timer
    import kaleido

    with _lock, contextlib.suppress(Exception):
        _timer = None
        kaleido.stop_sync_server(silence_warnings=True)
