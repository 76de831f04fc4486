"""The tour as a reader meets it: a real JupyterLab in a real Chromium, with no network."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

spec = spec_from_file_location("browsing", Path(__file__).with_name("browsing.py"))
browsing = module_from_spec(spec)
spec.loader.exec_module(browsing)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The notebook, run to its end in a 1280 pixel wide window."""
    with browsing.chromium() as browser, browsing.jupyter_lab(tmp_path_factory.mktemp("lab")) as (url, token):
        opened = browsing.Notebook(browser.new_page(viewport={"width": 1280, "height": 1000}))
        opened.open(url, token, "00_tour.ipynb")
        errors = opened.run_all()
        assert not errors, f"cells failed: {errors}"
        opened.settled(opened.panel("speed"))  # it goes on measuring after its cell is done
        yield opened


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


def test_no_console_errors_and_no_request_leaves_this_computer(tour):
    assert not tour.complaints
    assert not tour.outside()
