"""The tour as a reader meets it: a real JupyterLab in a real Chromium, with no network.

The reader's browser is not the server's: what the server finds there hangs when it is started. Between the two is a
JupyterHub's prefix of a user whose name is no plain ASCII.
"""

import re
from pathlib import Path

import browsing
import psutil
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The notebook, run to its end in a 1280 pixel wide window."""
    folder = tmp_path_factory.mktemp("lab")
    stand_in = browsing.failing_browser(folder, "hangs")
    settings = {"BROWSER_PATH": str(stand_in), "MULTIPOLE_LAB_PICTURES": "png"}
    with (
        browsing.chromium() as browser,
        browsing.jupyter_lab(folder, base="/user/j%C3%B6rg/", **settings) as (url, token),
    ):
        opened = browsing.Notebook(browser.new_page(viewport={"width": 1280, "height": 1000}))
        opened.open(url, token, "00_tour.ipynb")
        errors = opened.run_all()
        assert not errors, f"cells failed: {errors}"
        assert not stand_in.with_suffix(".started").exists(), "a cell waited for a picture that nobody needs"
        opened.settled(opened.panel("speed"))  # it goes on measuring after its cell is done
        yield opened


def test_arrow_keys_move_the_clusters_slider_and_reset_puts_it_back(tour):
    panel = tour.panel("clusters")
    tour.until_titled("clusters", " 16 clusters")
    tour.press(panel, "clusters")
    tour.until_titled("clusters", " 32 clusters")
    tour.press(panel, "Reset")
    tour.until_titled("clusters", " 16 clusters")


@pytest.mark.parametrize(
    ("name", "slider"),
    [
        ("lens", "word"),
        ("matrix", "near"),
        ("expansion", "p x"),
        ("error", "clusters"),
        ("speed", "clusters"),
    ],
)
def test_arrow_keys_change_every_other_panel(tour, name, slider):
    panel = tour.panel(name)
    before = tour.drawn(name)
    tour.press(panel, slider)
    tour.until_redrawn(name, before)


def test_marks_on_top_of_thousands_of_dots_are_drawn_in_the_same_way(tour):
    """WebGL lies over the elements of the page: what they drew alone would be below the dots."""
    tour.panel("clusters")
    kinds = tour.page.evaluate(
        """() => document.querySelector(".ml-panel[aria-label='clusters panel'] .js-plotly-plot")._fullData
            .filter(trace => trace.name !== "cluster sizes").map(trace => trace.type)"""
    )
    assert len(kinds) == 3
    assert len(set(kinds)) == 1


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_every_panel_is_drawn_in_both_themes(tour, theme):
    tour.theme(theme)
    for name in ("lens", "matrix", "clusters", "expansion", "error", "speed"):
        panel = tour.panel(name)
        tour.until_fitting(panel)
        browsing.SHOTS.mkdir(exist_ok=True)
        panel.screenshot(path=browsing.SHOTS / f"tour-{name}-{theme[11:].lower()}.png")


def test_no_button_offers_to_send_the_picture_away(tour):
    titles = [b.get_attribute("data-title") for b in tour.panel("clusters").locator(".modebar-btn").all()]
    assert titles
    assert not [title for title in titles if "Share" in title or "Plotly" in title]


def test_downloads_come_from_the_page_itself(tour):
    panel = tour.panel("error")
    tour.unfold(panel, "Take away")
    with tour.page.expect_download() as saved:
        panel.get_by_role("button", name="CSV").click()
    text = Path(saved.value.path()).read_text()
    assert text.splitlines()[0] == "head,relative_squared_error"


def test_no_console_errors_and_no_request_leaves_this_computer(tour):
    assert not tour.complaints
    assert not tour.outside()


def test_server_and_kernel_fit_a_machine_of_4_gb(tour):
    """The tour's peak; a browser on the same machine takes the rest."""
    processes = [child for child in psutil.Process().children(recursive=True) if "python" in child.name()]
    assert any("ipykernel" in " ".join(child.cmdline()) for child in processes)
    peak = 0
    for child in processes:
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak += int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert peak < 2 << 20, f"{peak / 2**20:.2f} GiB"
