"""The tour as a reader meets it: a real JupyterLab in a real Chromium, with no network."""

import contextlib
import os
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

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "test-output"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without a sandbox because containers run as root; the rest keeps Chromium itself from calling home, and
# lets it draw 3-D pictures without a GPU.
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-domain-reliability", "--no-first-run", "--no-default-browser-check",
         "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # fmt: skip
PANELS = ("clusters", "expansion", "error", "speed")

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def find_browser() -> str:
    """The path of an installed Chromium; none is a failure in CI and a skip elsewhere."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no browser: install Chromium (apt-get install chromium); looked for {', '.join(BROWSERS)}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return path


@contextlib.contextmanager
def jupyter_lab(folder: Path):
    """Serve a copy of notebooks/ from ``folder`` on a free port, settings its own; yield (url, token)."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
              "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")  # fmt: skip
    env = {**os.environ, **{name: str(folder / name.lower()) for name in places}}
    command = [sys.executable, "-m", "jupyterlab", f"--config={folder / 'notebooks/jupyter_lab_config.py'}",
               "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}",
               "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for_server(server, url, token, folder / "server.log")
            yield url, token
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(15)
            server.kill()


def wait_for_server(server, url, token, log, seconds=60):
    """Return once the server answers; fail with its own words if it stops or stays silent."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


class Tour:
    """The open notebook, what the page complained about, and whom it called."""

    def __init__(self, page):
        self.page, self.complaints, self.addresses = page, [], []
        page.on("console", lambda m: m.type == "error" and self.complaints.append(m.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.context.on("request", lambda request: self.addresses.append(request.url))
        page.on("websocket", lambda socket: self.addresses.append(socket.url))

    def open(self, url, token):
        """Load the notebook and wait for its kernel."""
        self.page.goto(f"{url}/lab/tree/notebooks/00_tour.ipynb?token={token}")
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget"
            "?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=90_000,
        )

    def run_all(self):
        """Run every cell; return the error outputs."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        errors = self.page.evaluate("""() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
            .filter(cell => cell.type === 'code').flatMap(cell => cell.toJSON().outputs)
            .filter(output => output.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)""")
        if not errors:  # the speed panel goes on measuring after its cell is done
            self.panel("speed").get_by_text("ready").wait_for(timeout=120_000)
        return errors

    def panel(self, name):
        """Scroll to a panel and return it, once its figure is drawn: only what is in view is."""
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
        panel = self.page.locator(f".ml-panel[aria-label='{name} panel']")
        panel.locator(".gtitle").wait_for(timeout=30_000)
        return panel

    def press(self, panel, slider, key, times=1):
        """Press a key on a focused slider; return the title's text once it has changed."""
        before = panel.locator(".gtitle").text_content()
        panel.get_by_role("slider", name=slider, exact=True).focus()
        for _ in range(times):
            self.page.keyboard.press(key)
        self.page.wait_for_function(
            """([name, before]) => document.querySelector(`.ml-panel[aria-label='${name}'] .gtitle`)
                ?.textContent !== before""",
            arg=[panel.get_attribute("aria-label"), before],
            timeout=30_000,
        )
        return panel.locator(".gtitle").text_content()

    def theme(self, name):
        """Switch JupyterLab to "JupyterLab Light" or "JupyterLab Dark"."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", name
        )
        shade = "false" if name.endswith("Dark") else "true"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{shade}']", state="attached")


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The notebook, run to its end in a 1280 pixel wide window."""
    browser_path = find_browser()
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as (url, token), sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=FLAGS)
        try:
            opened = Tour(browser.new_page(viewport={"width": 1280, "height": 1000}))
            opened.open(url, token)
            errors = opened.run_all()
            assert not errors, f"cells failed: {errors}"
            yield opened
        finally:
            browser.close()


def test_arrow_keys_on_the_clusters_slider_change_the_figure(tour):
    panel = tour.panel("clusters")
    assert "16 clusters" in panel.locator(".gtitle").text_content()
    assert "32 clusters" in tour.press(panel, "clusters", "ArrowRight")
    assert "16 clusters" in tour.press(panel, "clusters", "ArrowLeft")


def test_holding_a_key_ends_at_the_last_value(tour):
    panel = tour.panel("clusters")
    tour.press(panel, "clusters", "ArrowLeft", times=2)
    tour.page.wait_for_function(
        "() => document.querySelector(`.ml-panel[aria-label='clusters panel'] .gtitle`).textContent"
        ".includes(' 4 clusters')",
        timeout=30_000,
    )
    panel.get_by_role("button", name="Reset", exact=True).click()
    tour.page.wait_for_function(
        "() => document.querySelector(`.ml-panel[aria-label='clusters panel'] .gtitle`).textContent"
        ".includes(' 16 clusters')",
        timeout=30_000,
    )


@pytest.mark.parametrize(
    ("name", "slider"), [("expansion", "p x"), ("error", "clusters"), ("speed", "clusters")]
)
def test_arrow_keys_change_every_other_panel(tour, name, slider):
    panel = tour.panel(name)
    before = panel.locator(".gtitle").text_content()
    assert tour.press(panel, slider, "ArrowRight") != before


def test_a_bad_choice_is_explained_and_reset_mends_it(tour):
    panel = tour.panel("clusters")
    for slider, key in (("context", "Home"), ("clusters", "End")):  # 1,024 clusters of 256 keys
        panel.get_by_role("slider", name=slider, exact=True).focus()
        tour.page.keyboard.press(key)
    alert = panel.get_by_role("alert")
    alert.wait_for(timeout=30_000)
    assert "256" in alert.text_content()
    panel.get_by_role("button", name="Reset", exact=True).click()
    alert.wait_for(state="detached", timeout=30_000)


def test_no_button_offers_to_send_the_picture_away(tour):
    titles = [b.get_attribute("data-title") for b in tour.panel("clusters").locator(".modebar-btn").all()]
    assert titles
    assert not [title for title in titles if "Share" in title or "Plotly" in title]


def test_downloads_come_from_the_page_itself(tour):
    panel = tour.panel("error")
    with tour.page.expect_download(timeout=30_000) as saved:
        panel.get_by_role("button", name="CSV").click()
    text = Path(saved.value.path()).read_text()
    assert text.splitlines()[0] == "head,relative_squared_error"


def test_screenshots_in_both_themes_and_widths(tour):
    SHOTS.mkdir(exist_ok=True)
    for theme in ("Light", "Dark"):
        tour.theme(f"JupyterLab {theme}")
        for width in (1280, 900):
            tour.page.set_viewport_size({"width": width, "height": 1000})
            for name in PANELS:
                panel = tour.panel(name)
                tour.page.wait_for_timeout(700)  # plotly redraws to the new width
                panel.screenshot(path=SHOTS / f"tour-{name}-{theme.lower()}-{width}.png")
    tour.theme("JupyterLab Light")
    tour.page.set_viewport_size({"width": 1280, "height": 1000})


def test_no_console_errors_and_no_request_leaves_this_computer(tour):
    assert not tour.complaints
    hosts = {urllib.parse.urlsplit(address).hostname for address in tour.addresses}
    assert hosts - {None} == {"127.0.0.1"}, hosts  # data: and blob: addresses have no host of their own
