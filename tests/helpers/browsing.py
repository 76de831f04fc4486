"""A real JupyterLab in a real Chromium, for the tests named test_browser_*; with no network."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "test-output"
NO_BROWSER = "no Chromium or Chrome found"
# Without a sandbox because containers run as root; the rest keeps Chromium itself from calling home, and
# lets it draw 3-D pictures without a GPU.
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-domain-reliability", "--no-first-run", "--no-default-browser-check",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # fmt: skip


def find_browser() -> str:
    """The path of the browser that panels use too. None is a skip; in CI a failure, unless the run has hidden it.

    A run hides every browser by a BROWSER_PATH that is no program.
    """
    from multipole_lab.figures.common import browser  # not before conftest.py has told Triton to interpret

    path = browser.find_browser()
    if path is None:
        hidden = os.environ.get("BROWSER_PATH")
        reason = f"{NO_BROWSER}: {f'BROWSER_PATH is {hidden!r}' if hidden else 'apt-get install chromium'}"
        pytest.fail(reason) if os.environ.get("CI") == "true" and not hidden else pytest.skip(reason)
    return path


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say last and in one line what was not tested for want of a browser."""
    yield
    skipped = [
        str(r.longrepr[2]) for r in terminalreporter.stats.get("skipped", []) if _skipped_for_browser(r)
    ]
    if skipped:
        reason = skipped[0].removeprefix("Skipped: ")
        terminalreporter.write_sep(
            "=", f"{len(skipped)} browser tests skipped: {reason}", yellow=True, bold=True
        )


def _skipped_for_browser(report):
    return isinstance(report.longrepr, tuple) and NO_BROWSER in report.longrepr[2]


# Stand-ins for a browser that fails, by the way in which it does; $0.started tells that it was started.
FAILING = {
    "absent": None,
    "hangs": "sleep 1000",
    "hangs with a child that holds its output": "sleep 1000 & sleep 1000",
    "ends at once": "exit 0",
    "has no sandbox": "echo 'FATAL: no usable sandbox!' >&2; exit 133",
    "lacks its program": "exec /nonexistent/chromium",
    "is no program": "\0",
}


def failing_browser(folder: Path, how: str) -> Path:
    """Write a stand-in for a browser that fails; return its path, for BROWSER_PATH."""
    path = folder / "chromium"
    if FAILING[how] is not None:
        path.write_text(
            "\0" if how == "is no program" else f'#!/bin/sh\necho $$ > "$0.started"\n{FAILING[how]}\n'
        )
        path.chmod(0o755)
    return path


@contextlib.contextmanager
def jupyter_lab(folder: Path, base: str = "/", **environment: str):
    """Serve a copy of notebooks/ from ``folder`` on a free port, settings its own; yield (url, token).

    Its addresses begin with ``base``, percent-encoded, as behind a JupyterHub or another proxy. The server's
    environment is this one's and what ``environment`` adds.
    """
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
              "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")  # fmt: skip
    env = {**os.environ, **{name: str(folder / name.lower()) for name in places}, **environment}
    command = [sys.executable, "-m", "jupyterlab", f"--config={folder / 'notebooks/settings/jupyter_lab_config.py'}",
               "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={folder}", f"--ServerApp.base_url={base}", f"--IdentityProvider.token={token}",
               "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}{base}".rstrip("/")
            wait_for_server(server, url, token, folder / "server.log")
            yield url, token
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(15)
            server.kill()


def wait_for_server(server, url, token, log, seconds=90):
    """Return once the server answers; fail with its own words if it stops or stays silent."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


WAIT = 90_000  # milliseconds; for a machine whose two cores run other tests beside these


def _complains(message):
    """Whether a line of the page's console is an error, or a part of a figure that plotly.js ignores."""
    return message.type == "error" or message.text.startswith("WARN:")


class Notebook:
    """The open notebook, what the page complained about, and whom it called."""

    def __init__(self, page):
        self.page, self.complaints, self.addresses = page, [], []
        page.set_default_timeout(WAIT)
        page.on("console", lambda m: _complains(m) and self.complaints.append(m.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.context.on("request", lambda request: self.addresses.append(request.url))
        page.on("websocket", lambda socket: self.addresses.append(socket.url))

    def open(self, url, token, path):
        """Load the notebook and wait for its kernel."""
        self.page.goto(f"{url}/lab/tree/notebooks/{path}?token={token}")
        self.until_idle()

    def until_idle(self):
        """Wait for the kernel of a page that is being loaded."""
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget"
            "?.sessionContext?.session?.kernel?.status === 'idle'",
        )

    def run_all(self):
        """Run every cell; return the error outputs."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return self.page.evaluate("""() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
            .filter(cell => cell.type === 'code').flatMap(cell => cell.toJSON().outputs)
            .filter(output => output.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)""")

    def panel(self, name):
        """Scroll to a panel and return it, once its figure is drawn: only what is in view is."""
        panel = self.page.locator(f".ml-panel[aria-label='{name} panel']")
        for _ in range(20):  # panels above that are drawn meanwhile move it out of view again
            self.page.evaluate(
                """name => {
                    const notebook = window.jupyterapp.shell.currentWidget.content;
                    const at = notebook.widgets.findIndex(
                        cell => cell.model.sharedModel.source.includes(`ml.panels.${name}(`));
                    notebook.activeCellIndex = at;
                    notebook.scrollToItem(at, 'start');
                }""",
                name,
            )
            for _ in range(50):
                if panel.locator(".gtitle").first.is_visible():
                    return panel
                self.page.wait_for_timeout(100)
        pytest.fail(
            f"the {name} panel came into no view; {self.page.evaluate(_INSTEAD, name)}; {self.complaints[-3:]}",
            pytrace=False,
        )

    def press(self, panel, control):
        """Press a button by the keyboard, or move a slider by one key, at its upper end downwards."""
        slider = panel.get_by_role("slider", name=control, exact=True)
        button = panel.get_by_role("button", name=control, exact=True)
        if not slider.or_(button).count():  # what is folded away has no role
            self.unfold(panel, "More")
        slider.or_(button).focus()
        if button.count():
            self.page.keyboard.press("Enter")
        else:
            now, end = (float(slider.get_attribute(f"aria-value{part}")) for part in ("now", "max"))
            self.page.keyboard.press("ArrowRight" if now < end else "ArrowLeft")

    def unfold(self, panel, words):
        """Show what is behind one of a panel's buttons, unless it is shown."""
        button = panel.get_by_role("button", name=words, exact=True)
        if button.get_attribute("aria-expanded") != "true":
            button.click()
        panel.get_by_role("button", name=words, exact=True, expanded=True).wait_for()

    def until_titled(self, name, words):
        """Wait until a panel's title contains these words."""
        self.page.wait_for_function(
            """([name, words]) => document.querySelector(`.ml-panel[aria-label='${name} panel'] .gtitle`)
                ?.textContent.includes(words)""",
            arg=[name, words],
            polling=50,
        )

    def theme(self, name):
        """Switch JupyterLab to "JupyterLab Light" or "JupyterLab Dark"."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name
        )
        shade = "false" if name.endswith("Dark") else "true"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{shade}']", state="attached")

    def drawn(self, name):
        """A number that changes with anything that a panel's figure shows."""
        return self.page.evaluate(_DRAWN, name)

    def until_redrawn(self, name, before):
        """Wait until a panel has done its work and shows something else than before."""
        self.page.wait_for_function(
            f"""([name, before]) => [...document.querySelectorAll(`.ml-panel[aria-label^="${{name}} "] [role=status]`)]
                .some(status => /ready|drawn in/.test(status.textContent)) && ({_DRAWN})(name) !== before""",
            arg=[name, before],
            polling=100,
        )

    def settled(self, panel):
        """Wait until a panel has done its work."""
        panel.get_by_role("status").filter(has_text=re.compile("ready|drawn in")).first.wait_for()

    def until_fitting(self, panel):
        """Wait until a panel's figure is as wide as its place, and the panel no wider than its own."""
        self.page.wait_for_function(
            """panel => {
                const drawn = panel.querySelector(".main-svg")?.getBoundingClientRect().width;
                const place = panel.querySelector(".ml-figure").clientWidth;
                return Math.abs(place - drawn) <= 12 && panel.scrollWidth - panel.clientWidth <= 1;
            }""",
            arg=panel.element_handle(),
            polling=100,
        )

    def outside(self):
        """The hosts other than this computer that the page has called."""
        hosts = {urllib.parse.urlsplit(address).hostname for address in self.addresses}
        return hosts - {None, "127.0.0.1"}  # data: and blob: addresses have no host of their own


_DRAWN = """name => {
    const plot = document.querySelector(`.ml-panel[aria-label='${name} panel'] .js-plotly-plot`);
    const text = JSON.stringify([plot.data, plot.layout.title, plot.layout.shapes, plot.layout.annotations],
        (key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value);
    let hash = 0;
    for (let i = 0; i < text.length; i++) hash = (hash * 31 + text.charCodeAt(i)) | 0;
    return hash;
}"""


# What there is in place of a panel that is not seen, for who reads the failure elsewhere.
_INSTEAD = """name => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const cell = notebook.widgets.find(cell => cell.model.sharedModel.source.includes(`ml.panels.${name}(`));
    const box = part => part && [part.className, ...["top", "width", "height"].map(
        side => Math.round(part.getBoundingClientRect()[side]))].join(" ");
    const panel = cell.node.querySelector(".ml-panel");
    return JSON.stringify({
        kinds: cell.model.toJSON().outputs.map(output => Object.keys(output.data ?? output)),
        connected: cell.node.isConnected,
        cell: box(cell.node), panel: box(panel), label: panel?.getAttribute("aria-label"),
        figures: [...cell.node.querySelectorAll(".ml-figure, .js-plotly-plot, .gtitle")].map(box),
        text: cell.node.innerText.slice(0, 400),
    });
}"""


@contextlib.contextmanager
def chromium():
    """A Chromium, without its window."""
    path = find_browser()
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
