"""A figure as a PNG, drawn by an installed Chromium or Chrome without the network."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly
import plotly.graph_objects as go

from .browser import find_browser

# A busy computer has taken 20 s for a picture that takes one; a browser that hangs is waited for once.
SECONDS = 30
# The browser draws, prints the page as text and ends. Its clock stands still while something loads, and then jumps: it
# waits for the picture, not for the budget. No sandbox, which is refused in containers and under root; the page is
# our own. The rest keeps Chromium from calling home, and has it draw 3-D pictures without a GPU.
_FLAGS = (
    "--headless", "--dump-dom", "--virtual-time-budget=60000", "--no-sandbox", "--disable-gpu",
    "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--disable-breakpad", "--no-first-run",
    "--no-default-browser-check", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-domain-reliability",
)  # fmt: skip
_PAGE = """<!doctype html><meta charset="utf-8"><script src="plotly.min.js"></script><body><script>
Plotly.toImage({figure}, {size}).then((address) => {{ document.body.textContent = address; }});
</script>"""
_PICTURE = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/]+=*)")
_given_up = False


def png(figure: go.Figure, width: int = 900, height: int | None = None) -> bytes | None:
    """Draw a figure on white, or return None where no browser draws it within 30 seconds.

    The first failure is said in one line on stderr; after it this process tries no more. No browser is left running.

    Parameters
    ----------
    width, height : in pixels; the figure's own height, or 450, by default.
    """
    global _given_up
    if _given_up:
        return None
    still = go.Figure(figure)
    still.update_layout(paper_bgcolor="#ffffff", font_color="#444444")
    still.update_coloraxes(colorbar_tickfont_color="#444444")
    size = {"format": "png", "width": width, "height": int(height or figure.layout.height or 450)}
    try:
        path = find_browser()
        if path is None:
            raise RuntimeError(_absent())
        return _draw(path, _PAGE.format(figure=still.to_json(), size=json.dumps(size)))
    except Exception as error:  # whatever a browser may do: a picture is no must
        _given_up = True
        print(f"Panels leave no pictures: {error}", file=sys.stderr)
        return None


def _draw(path: str, page: str) -> bytes:
    """Have the browser draw a page; raise RuntimeError, in one line, where no picture comes of it."""
    # A browser from Ubuntu's snap store sees no other folder than the reader's own.
    place = Path.home() if "snap" in path else None
    with tempfile.TemporaryDirectory(prefix="picture-", dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", folder)
        (folder / "page.html").write_text(page, encoding="utf-8")
        address = (folder / "page.html").as_uri()
        command = [path, *_FLAGS, f"--user-data-dir={folder / 'profile'}", address]
        # Into a file: a pipe would be waited for as long as any descendant of the browser holds it.
        with (folder / "text").open("wb") as text, (folder / "log").open("wb") as log:
            browser = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=text, stderr=log, start_new_session=True
            )
            try:
                browser.wait(SECONDS)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"{path} drew none in {SECONDS} s") from None
            finally:  # also when the reader interrupts; macOS refuses to signal a group that has ended
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(browser.pid, signal.SIGKILL)
                browser.wait()
        found = _PICTURE.search((folder / "text").read_bytes())
        if found is None:
            said = (folder / "log").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"{path} ended with {browser.returncode} and no picture: {said[-1]}")
        return base64.b64decode(found[1])


def _absent() -> str:
    """Say in words that there is no browser, and what to do."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return f"BROWSER_PATH is {named!r}, which is no program"
    return "no Chromium or Chrome found (on Debian and Ubuntu: sudo apt-get install chromium)"
