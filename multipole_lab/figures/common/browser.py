"""Where a Chromium or Chrome is, for pictures of panels and for the tests that drive one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# Looked for on PATH where kaleido, which knows more names and places, is not installed.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the path of the browser that kaleido would start, or None.

    Kaleido's own order: its download, then the file that ``BROWSER_PATH`` names, then Chrome, Chromium, Edge, Brave and
    Vivaldi on ``PATH`` and in their usual places. A file that cannot be executed is no browser. Whether a browser that
    is there also starts is seen only when it is started.
    """
    try:
        from choreographer.browsers.chromium import Chromium

        path = Chromium.find_browser(skip_local=False)
    except (ImportError, RuntimeError):  # no kaleido, or no home folder in which its download could be
        path = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
    return path if path and Path(path).is_file() and os.access(path, os.X_OK) else None
