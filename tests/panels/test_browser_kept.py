"""Panels keep what they show in a real JupyterLab: all marks after Run All, a second view, a reader's zoom."""

from pathlib import Path

import browsing
import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

START = """\
import importlib
import multipole_lab as ml

front = importlib.import_module("multipole_lab.panels.front")
every = front.candidates
front.candidates = lambda *args: every(*args)[:3]
sample = ml.load_sample("smollm2").crop(512)
importlib.import_module("multipole_lab.panels.common.work")._QUICK_SECONDS = 60  # however busy this computer is"""
FIGURE = """\
from multipole_lab.figures import lines
from multipole_lab.figures.common import theme

lines({"a": ([1, 2], [1, 2])}, "Kept", x="x", y="y").show(config=theme.CELL_CONFIG)"""
# Squares of colours, and one that a cell makes itself as notebook 2 does.
FIGURES = (
    """\
import numpy as np
from multipole_lab.figures import fields
fields(np.arange(3.0), {"a": np.ones(9)}, np.ones((1, 2)), np.ones(1)).show(config=theme.CELL_CONFIG)""",
    """\
import plotly.graph_objects as go
go.Figure(go.Scatter(x=[1, 2], y=[1, 2]), {"template": theme.TEMPLATE}).show(config=theme.CELL_CONFIG)""",
)
CELL = "() => window.jupyterapp.shell.currentWidget.content.scrollToItem(%d, 'start')"
PANELS = {"clusters": "clusters", "matrix": "near", "front": "time limit"}  # and a slider of each

# Marks that are drawn, and marks that there are to draw, of every trace that has some.
_MARKS = """name => [...document.querySelectorAll(`.ml-panel[aria-label='${name} panel'] .js-plotly-plot`)].map(plot =>
    [plot.querySelectorAll('.scatterlayer .point').length,
     plot._fullData.filter(t => t.type === 'scatter' && t.visible === true && /markers/.test(t.mode))
        .reduce((n, t) => n + [...t.x].filter((x, i) => x !== null && t.y[i] !== null).length, 0)])"""
_RANGES = """name => {
    const plot = document.querySelector(`.ml-panel[aria-label='${name} panel'] .js-plotly-plot`);
    return [...plot._fullLayout.xaxis.range, ...plot._fullLayout.yaxis.range];
}"""

# Whether JupyterLab has taken a picture of every figure.
_PICTURED = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].every(
    cell => cell.toJSON().outputs.some(output => output.data["image/png"]))"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with (
        browsing.chromium() as browser,
        browsing.jupyter_lab(folder, BROWSER_PATH="/dev/null") as (url, token),
    ):
        cells = [START, *(f"ml.panels.{name}(sample)" for name in PANELS)]
        cells += ['ml.panels.lab(sample, show=("lens", "error"))', FIGURE]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(notebook, folder / "notebooks/kept.ipynb")
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in (FIGURE, *FIGURES)]
        nbformat.write(notebook, folder / "notebooks/alone.ipynb")
        opened = browsing.Notebook(browser.new_page(viewport={"width": 1280, "height": 1200}))
        opened.open(url, token, "kept.ipynb")
        # In a workspace of its own: JupyterLab would open the other notebook beside it.
        opened.alone = f"{url}/lab/workspaces/alone/tree/notebooks/alone.ipynb?token={token}"
        assert not opened.run_all()
        yield opened


def press(panel, words):
    """Click the button of that name."""
    panel.get_by_role("button", name=words, exact=True).click()


def whole(lab, name):
    """Every mark is drawn that there is to draw, in every view."""
    lab.page.wait_for_function(
        f"name => ({_MARKS})(name).every(([drawn, all]) => drawn === all && all > 0)", arg=name
    )


def test_all_marks_are_there_after_run_all(lab):
    panel = lab.panel("front")
    lab.settled(panel)
    whole(lab, "front")


def test_a_figure_of_a_cell_keeps_its_height_and_follows_the_width(lab):
    figure, page = lab.page.locator(".jp-RenderedPlotly"), lab.page
    page.evaluate(CELL % (len(PANELS) + 2))
    figure.locator(".main-svg").first.wait_for()
    height = figure.bounding_box()["height"]
    assert height > 300
    for size in ((1280, 900), (1280, 1000), (900, 1000), (1280, 1200)):
        page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
        page.wait_for_timeout(800)  # plotly waits for a tenth of a second
        page.evaluate(CELL % (len(PANELS) + 2))
        box, drawn = figure.bounding_box(), figure.locator(".main-svg").first.bounding_box()
        assert box["height"] == pytest.approx(height, abs=1), size
        assert drawn["width"] == pytest.approx(box["width"], abs=2), size


@pytest.mark.parametrize("name", ["front", "clusters"])
def test_a_second_view_shows_what_the_first_one_does(lab, name):
    panel = lab.panel(name)
    before = lab.drawn(name)
    lab.press(panel, PANELS[name])
    lab.until_redrawn(name, before)
    lab.page.evaluate("() => window.jupyterapp.commands.execute('notebook:create-output-view')")
    lab.page.wait_for_function(
        """name => document.querySelectorAll(`.ml-panel[aria-label='${name} panel'] .js-plotly-plot .gtitle`)
            .length > 1""",
        arg=name,
    )
    if name == "front":
        whole(lab, name)
    shown = lab.page.evaluate(
        """name => [...document.querySelectorAll(`.ml-panel[aria-label='${name} panel'] .js-plotly-plot`)].map(plot =>
            JSON.stringify([plot.data.map(t => [t.type, t.name, t.x && t.x.length, t.marker && t.marker.color
                && t.marker.color.length]), plot.layout.title.text]))""",
        name,
    )
    assert len(set(shown)) == 1
    assert "_undefined_" not in shown[0]
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.close()")
    before = lab.drawn(name)
    lab.press(panel, "Reset")
    lab.until_redrawn(name, before)


@pytest.mark.parametrize("name", ["clusters", "matrix"])
def test_a_zoom_outlasts_a_slider_until_reset(lab, name):
    panel = lab.panel(name)
    lab.settled(panel)
    first = lab.page.evaluate(_RANGES, name)
    box = panel.locator(".nsewdrag").first.bounding_box()
    at = [(box["x"] + part * box["width"], box["y"] + part * box["height"]) for part in (0.3, 0.6)]
    lab.page.mouse.move(*at[0])
    lab.page.mouse.down()
    lab.page.mouse.move(*at[1], steps=5)
    lab.page.mouse.up()
    lab.page.wait_for_function(
        f"([name, first]) => JSON.stringify(({_RANGES})(name)) !== JSON.stringify(first)", arg=[name, first]
    )
    lab.page.wait_for_timeout(500)  # the page tells the kernel
    zoomed, before = lab.page.evaluate(_RANGES, name), lab.drawn(name)
    lab.press(panel, PANELS[name])
    lab.until_redrawn(name, before)
    assert lab.page.evaluate(_RANGES, name) == pytest.approx(zoomed)
    panel.get_by_role("button", name="Reset", exact=True).click()
    lab.page.wait_for_function(
        f"""([name, first]) => ({_RANGES})(name).every((x, i) =>
            Math.abs(x - first[i]) <= 1e-6 + 1e-3 * Math.abs(first[i]))""",
        arg=[name, first],
    )


def test_a_slider_of_the_desk_stays_in_sight_and_moves_every_panel(lab):
    desk = lab.panel("lab")
    before = {name: lab.drawn(name) for name in ("lens", "error")}
    desk.get_by_role("slider", name="clusters", exact=True).focus()
    lab.page.keyboard.press("ArrowLeft")
    for name, drawn in before.items():
        lab.until_redrawn(name, drawn)
    assert "clusters=16" in desk.get_by_role("region", name="line that makes this desk again").text_content()
    lab.page.locator(".ml-panel[aria-label='error panel'] .ml-buttons").first.scroll_into_view_if_needed()
    box = desk.get_by_role("slider", name="clusters", exact=True).bounding_box()
    assert 0 <= box["y"] < 1200


@pytest.mark.parametrize(("kind", "begins"), [("PNG", b"\x89PNG"), ("SVG", b"<svg")])
def test_the_picture_is_saved_by_a_button(kind, begins, lab):
    panel = lab.panel("clusters")
    lab.settled(panel)
    lab.unfold(panel, "Take away")
    with lab.page.expect_download() as download:
        panel.locator(".ml-buttons button", has_text=kind).click()
    assert download.value.suggested_filename == f"clusters.{kind.lower()}"
    assert Path(download.value.path()).read_bytes().startswith(begins)


def test_a_search_in_the_lens_goes_from_place_to_place(lab):
    lab.panel("lab")
    story = lab.page.locator(".ml-panel[aria-label='lens panel'] .ml-story")
    story.get_by_role("searchbox").fill("the ")
    count = story.locator(".ml-find span")
    assert "found" in count.text_content()
    assert story.locator(".found").count() > 10
    for key in ("Enter", "Enter", "Shift+Enter"):
        before = lab.drawn("lens")
        story.get_by_role("searchbox").press(key)
        lab.until_redrawn("lens", before)
        assert " of " in count.text_content()
        assert story.locator(".found.own").first.text_content().strip().lower() == "the"
    story.get_by_role("searchbox").fill("no such word")
    assert count.text_content() == "0 found"


def test_a_slider_that_is_dragged_redraws_before_it_is_let_go(lab):
    panel = lab.panel("clusters")
    before = lab.drawn("clusters")
    lab.press(panel, "clusters")  # the first move says that a picture is quick
    lab.until_redrawn("clusters", before)
    handle = panel.get_by_role("slider", name="clusters", exact=True)
    box, before = handle.bounding_box(), lab.drawn("clusters")
    lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] - 60, box["y"] + box["height"] / 2, steps=4)
    lab.until_redrawn("clusters", before)
    lab.page.mouse.up()


def test_a_move_is_undone_and_a_picture_held_beside_the_next(lab):
    panel = lab.panel("clusters")
    press(panel, "Reset")
    lab.until_titled("clusters", "become 16 clusters")
    press(panel, "Hold")
    panel.get_by_role("figure", name="the picture that is held").wait_for()
    lab.press(panel, "clusters")
    lab.until_titled("clusters", "become 32 clusters")
    panel.get_by_text("Held: clusters 16. Now: clusters 32.").wait_for()
    live, held = (panel.locator(".ml-figure").nth(i) for i in (0, 1))
    assert "become 16 clusters" in held.locator(".gtitle").text_content()
    assert live.bounding_box()["y"] == held.bounding_box()["y"]
    assert live.bounding_box()["x"] + 100 < held.bounding_box()["x"]
    press(panel, "Hold")
    lab.page.wait_for_function(
        "panel => panel.querySelectorAll('.js-plotly-plot').length === 1", arg=panel.element_handle()
    )
    press(panel, "Undo")
    lab.until_titled("clusters", "become 16 clusters")
    lab.until_fitting(panel)


def test_play_moves_on_by_itself_until_it_is_stopped(lab):
    panel = lab.panel("clusters")
    press(panel, "Play iterations")
    slider = panel.get_by_role("slider", name="iterations", exact=True)
    lab.page.wait_for_function(
        "slider => Number(slider.getAttribute('aria-valuenow')) >= 2", arg=slider.element_handle()
    )
    press(panel, "Play iterations")
    panel.get_by_role("button", name="Play iterations", exact=True, pressed=False).wait_for()
    at = slider.get_attribute("aria-valuenow")
    lab.page.wait_for_timeout(1500)
    assert slider.get_attribute("aria-valuenow") == at
    press(panel, "Reset")


def test_a_panel_fills_the_screen_and_comes_back(lab):
    panel = lab.panel("clusters")
    lab.settled(panel)
    before = panel.locator(".main-svg").first.bounding_box()["height"]
    press(panel, "Present")
    lab.page.wait_for_function(
        """([panel, before]) => document.fullscreenElement === panel && panel.classList.contains("ml-large")
            && panel.querySelector(".main-svg").clientHeight > before + 100 && panel.scrollHeight <= innerHeight + 1""",
        arg=[panel.element_handle(), before],
    )
    press(panel, "Present")
    lab.page.wait_for_function(
        """([panel, before]) => !document.fullscreenElement && !panel.classList.contains("ml-large")
            && Math.abs(panel.querySelector(".main-svg").clientHeight - before) < 3""",
        arg=[panel.element_handle(), before],
    )


def test_a_link_opens_the_page_with_the_panel_as_it_was(lab):
    panel = lab.panel("clusters")
    press(panel, "Reset")
    lab.press(panel, "clusters")
    lab.until_titled("clusters", "become 32 clusters")
    lab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    lab.unfold(panel, "Take away")
    press(panel, "Link")
    link = lab.page.evaluate(
        """async () => {
            for (let i = 0; i < 900; i++) {  // 90 s
                const text = await navigator.clipboard.readText();
                if (text.includes("panel.clusters")) return text;
                await new Promise(soon => setTimeout(soon, 100));
            }
        }"""
    )
    assert "token" not in link
    press(panel, "Reset")
    lab.until_titled("clusters", "become 16 clusters")
    lab.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    lab.page.goto(link)
    lab.until_idle()
    lab.panel("clusters")
    lab.until_titled("clusters", "become 32 clusters")


def test_saved_pictures_of_figures_fit_a_narrower_window_without_panel_and_kernel(lab):
    page = lab.page.context.browser.new_page(viewport={"width": 1280, "height": 1200})
    book = browsing.Notebook(page)
    page.goto(lab.alone)
    book.until_idle()
    assert not book.run_all()
    drawn = page.locator(".jp-RenderedPlotly .main-svg")
    for i in range(3):
        page.evaluate(CELL % i)
        drawn.nth(3 * i).wait_for()
    page.wait_for_function(_PICTURED)
    assert page.locator(".jp-OutputArea-child").count() == 6
    assert page.locator(".jp-OutputArea-child:visible").count() == 3  # the style takes no place
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.set_viewport_size({"width": 900, "height": 1200})
    page.goto(lab.alone)
    # The pictures are in the page a moment before JupyterLab has made the notebook the current one.
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content.scrollToItem")
    pictures = page.locator(".jp-RenderedPlotly > .plot-img")
    for i in range(3):
        pictures.nth(i).wait_for(state="attached")
        page.evaluate(CELL % i)
        pictures.nth(i).wait_for()
        own, shown, place = pictures.nth(i).evaluate(
            "picture => [picture.naturalWidth, picture.clientWidth, picture.parentElement.clientWidth]"
        )
        assert own > place >= shown > place - 2
    assert page.locator(".ml-panel").count() == drawn.count() == 0
    page.close()


def test_a_restarted_kernel_is_said_once_in_every_panel(lab):
    panel = lab.panel("clusters")
    banner = "panel => getComputedStyle(panel, '::before').content"
    assert panel.evaluate(banner) == "none"
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    again = f"panel => ({banner})(panel).includes('run this cell again')"
    lab.page.wait_for_function(again, arg=panel.element_handle())
    inner = """panel => [...panel.querySelectorAll('.jupyter-widgets-disconnected')].filter(
        part => getComputedStyle(part, '::before').content !== 'none').length"""
    assert panel.evaluate(inner) == 0


def test_widgets_whose_code_comes_late_hear_all_the_same(lab):
    """As on a page that is busy for the two seconds that anywidget gives a widget's code: here it gives none."""
    lab.page.add_init_script(
        """AbortSignal.timeout = () => {
            const none = new AbortController();
            setTimeout(() => none.abort());
            window.late = (window.late ?? 0) + 1;
            return none.signal;
        }"""
    )
    lab.page.reload()
    lab.until_idle()
    assert not lab.run_all()
    for name, slider in {"clusters": "clusters", "matrix": "near", "lens": "word"}.items():
        panel = lab.panel("lab" if name == "lens" else name)
        lab.settled(panel)
        before = lab.drawn(name)
        lab.press(lab.page.locator(f".ml-panel[aria-label='{name} panel']"), slider)
        lab.until_redrawn(name, before)
    story = lab.page.locator(".ml-panel[aria-label='lens panel'] .ml-story")
    assert story.locator(".own").count() == 2
    assert lab.page.evaluate("() => window.late") > 10
