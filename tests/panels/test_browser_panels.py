"""Every panel in a real JupyterLab: by keyboard, in both themes, at two widths, under a scan for accessibility."""

import time
from pathlib import Path

import browsing
import nbformat
import pytest
from every_panel import takes_sample

# The controls that the keyboard moves in each panel, one after the other from where the one before left it.
# What measures goes on doing so after its cell: last, so that it does not hold up the others.
CONTROLS = {
    "clusters": ["layer", "head", "context", "clusters", "cap", "iterations", "seed", "spotlight", "3-D"],
    "expansion": ["p x", "p y", "query x", "query y", "clusters", "spread", "seed", "output", "dipole"],
    "error": [
        "layer",
        "head",
        "context",
        "clusters",
        "cap",
        "iterations",
        "near",
        "seed",
        "dipole",
        "centroid",
    ],
    "blocks": ["layer", "head", "context", "leaf", "near", "dipole", "clusters", "error", "mass"],
    "decode": [
        "layer",
        "key head",
        "budget",
        "keys/cluster",
        "sinks",
        "step",
        "one",
        "dropped",
        "recent",
        "context",
    ],
    "lens": ["layer", "head", "clusters", "near", "leaf", "dipole", "word", "full", "context"],
    "cost": [
        "tokens",
        "heads",
        "head size",
        "batch",
        "layers",
        "near",
        "clusters",
        "leaf",
        "dipole",
        "Window",
        "budget",
    ],
    "matrix": ["layer", "head", "context", "clusters", "near", "cluster", "dipole", "causal", "leaf"],
    "roofline": ["tokens", "clusters", "near", "head size"],
    "tuner": ["max error"],
    "writing": ["layer", "key head", "budget", "one", "dropped", "word", "context"],
    "front": ["time limit", "causal"],
    "speed": ["up to", "clusters", "dipole"],
}
PANELS = list(CONTROLS)

# A short text and few candidates, so that measuring takes a second.
START = """\
import importlib
import multipole_lab as ml

front = importlib.import_module("multipole_lab.panels.front")
every = front.candidates
front.candidates = lambda *args: every(*args)[:3]
sample = ml.load_sample("smollm2").crop(1024)"""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def write_notebook(path):
    """A notebook with all panels."""
    cells = [START]
    cells += [f"ml.panels.{name}({'sample' if takes_sample(name) else ''})" for name in PANELS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The notebook of all panels, run to its end, in a light theme and a 1280 pixel wide window.

    The server finds no browser of its own.
    """
    axe_package = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    folder = tmp_path_factory.mktemp("lab")
    browsing.SHOTS.mkdir(exist_ok=True)
    with (
        browsing.chromium() as browser,
        browsing.jupyter_lab(folder, BROWSER_PATH="/dev/null") as (url, token),
    ):
        write_notebook(folder / "notebooks/panels.ipynb")
        opened = browsing.Notebook(browser.new_page(viewport={"width": 1280, "height": 1200}))
        opened.open(url, token, "panels.ipynb")
        opened.theme("JupyterLab Light")
        errors = opened.run_all()
        assert not errors, f"cells failed: {errors}"
        opened.page.evaluate((Path(axe_package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        yield opened


def look(lab, panel, name, picture):
    """Take a picture of a panel that fits its place; fail on serious barriers inside it."""
    lab.settled(panel)
    lab.until_fitting(panel)
    panel.screenshot(path=browsing.SHOTS / f"panel-{name}-{picture}.png")
    cut = panel.evaluate(
        """panel => [...panel.querySelectorAll(".widget-readout, .widget-label")].filter(words =>
            words.checkVisibility() && words.scrollWidth > words.clientWidth + 1).map(words => words.textContent)"""
    )
    assert not cut
    serious = lab.page.evaluate(
        """async name => {
            const panel = document.querySelector(`.ml-panel[aria-label='${name} panel']`);
            const { violations } = await axe.run(panel, { resultTypes: ['violations'] });
            return violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(
                v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.html.slice(0, 160)).slice(0, 3)}`);
        }""",
        name,
    )
    assert not serious


def beside(panel):
    """Where the controls of a panel are, and its figure."""
    return [panel.locator(part).first.bounding_box() for part in (".ml-settings", ".ml-figure")]


@pytest.mark.parametrize("name", PANELS)
def test_every_control_moves_the_figure_by_keyboard(lab, name):
    panel = lab.panel(name)
    look(lab, panel, name, "light-1280")
    settings, figure = beside(panel)
    assert settings["x"] + settings["width"] <= figure["x"]
    assert settings["height"] <= 260, "four controls and a button"
    for control in [*CONTROLS[name], "Reset"]:
        before = lab.drawn(name)
        lab.press(panel, control)
        lab.until_redrawn(name, before)
    assert panel.get_by_role("alert").count() == 0


def test_twenty_moves_in_two_seconds_end_at_the_last_value(lab):
    panel = lab.panel("clusters")
    lab.until_titled("clusters", "become 16 clusters")
    panel.get_by_role("slider", name="clusters", exact=True).focus()
    keys = ["ArrowRight", "ArrowRight", "ArrowLeft"] * 6 + ["ArrowLeft", "ArrowLeft"]
    start = time.perf_counter()
    for i, key in enumerate(keys, 1):
        lab.page.keyboard.press(key)
        lab.page.wait_for_timeout(max(0, 100 * i - 1000 * (time.perf_counter() - start)))
    pressed = time.perf_counter()
    # From 16 up to 1,024, where one key is lost, and back.
    lab.until_titled("clusters", "become 128 clusters")
    print(f"20 moves in {pressed - start:.2f} s; drawn {time.perf_counter() - pressed:.2f} s after the last")
    lab.settled(panel)
    assert "become 128 clusters" in panel.locator(".gtitle").text_content()
    assert panel.get_by_role("alert").count() == 0
    panel.get_by_role("button", name="Reset", exact=True).click()
    lab.until_titled("clusters", "become 16 clusters")


def test_many_dots_are_drawn_by_webgl(lab):
    """Of 1,024 keys; the marks that are few, as the centroids of the queries, stay elements of the page."""
    panel = lab.panel("clusters")
    lab.page.wait_for_function(
        """panel => panel.querySelector(".js-plotly-plot")._fullData[0].type === "scattergl"
            && panel.querySelector(".gl-canvas") && panel.querySelectorAll(".point").length < 200""",
        arg=panel.element_handle(),
    )


def test_a_sample_that_cannot_be_opened_is_explained_in_the_panel(lab):
    panel = lab.panel("clusters")
    lab.unfold(panel, "More")
    box = panel.get_by_role("combobox")
    box.fill("no such sample")
    lab.page.keyboard.press("Enter")
    alert = panel.get_by_role("alert")
    alert.wait_for()
    assert "no sample 'no such sample'" in alert.text_content()
    box.fill("smollm2")
    lab.page.keyboard.press("Enter")
    alert.wait_for(state="detached")
    lab.until_titled("clusters", "1,024 keys")


def test_a_bad_choice_is_explained_and_reset_fixes_it(lab):
    panel = lab.panel("clusters")
    lab.unfold(panel, "More")
    for slider, key in (("context", "Home"), ("clusters", "End")):  # 1,024 clusters of 256 keys
        panel.get_by_role("slider", name=slider, exact=True).focus()
        lab.page.keyboard.press(key)
    alert = panel.get_by_role("alert")
    alert.wait_for()
    assert "256" in alert.text_content()
    panel.get_by_role("button", name="Reset", exact=True).click()
    alert.wait_for(state="detached")


def test_the_roofline_follows_its_device(lab):
    panel = lab.panel("roofline")
    before = lab.drawn("roofline")
    panel.get_by_role("combobox").select_option("A100 80GB")
    lab.until_redrawn("roofline", before)
    assert "A100 80GB" in panel.locator(".js-plotly-plot").text_content()


def test_large_type_and_back(lab):
    panel = lab.panel("decode")
    switch = panel.get_by_role("button", name="Large type", exact=True)
    size = "panel => parseFloat(getComputedStyle(panel.querySelector('.gtitle')).fontSize)"
    small = panel.evaluate(size)
    switch.click()
    large = f"panel => ({size})(panel) > {small} && panel.classList.contains('ml-large')"
    lab.page.wait_for_function(large, arg=panel.element_handle(), polling=100)
    look(lab, panel, "decode", "light-1280-large")
    switch.click()
    back = f"panel => ({size})(panel) === {small} && !panel.classList.contains('ml-large')"
    lab.page.wait_for_function(back, arg=panel.element_handle(), polling=100)


def test_every_panel_is_whole_and_readable_in_the_dark_at_900_pixels(lab):
    lab.theme("JupyterLab Dark")
    lab.page.set_viewport_size({"width": 900, "height": 1700})  # room for a panel with all its controls
    for name in PANELS:
        panel = lab.panel(name)
        # Above the figure where there is no room beside it; the page takes its new width a moment later.
        lab.page.wait_for_function(
            """panel => panel.querySelector(".ml-settings").getBoundingClientRect().bottom
                <= panel.querySelector(".ml-figure").getBoundingClientRect().top + 1""",
            arg=panel.element_handle(),
            polling=100,
        )
        for words in ("More", "Take away"):
            lab.unfold(panel, words)
        look(lab, panel, name, "dark-900")


def test_the_squares_of_the_matrix_fill_a_narrow_window(lab):
    panel = lab.panel("matrix")
    lab.until_fitting(panel)
    lab.page.wait_for_function(
        """panel => {
            const square = panel.querySelector(".heatmaplayer image").getBoundingClientRect();
            return 2.6 * square.width > panel.clientWidth;
        }""",
        arg=panel.element_handle(),
    )


def test_keys_on_a_slider_are_no_commands_and_toggles_say_whether_they_are_pressed(lab):
    panel = lab.panel("clusters")
    lab.settled(panel)
    lab.unfold(panel, "More")
    cells = lab.page.locator(".jp-Cell").count()
    panel.get_by_role("slider", name="seed", exact=True).focus()
    for key in "abdd":
        lab.page.keyboard.press(key)
    lab.page.wait_for_timeout(300)
    assert lab.page.locator(".jp-Cell").count() == cells

    def pressed(name):
        return panel.get_by_role("button", name=name, exact=True, pressed=True).count()

    assert (pressed("2-D"), pressed("3-D"), pressed("Large type")) == (1, 0, 0)
    before = lab.drawn("clusters")
    panel.get_by_role("button", name="3-D", exact=True).click()
    lab.until_redrawn("clusters", before)
    panel.get_by_role("button", name="3-D", exact=True, pressed=True).wait_for()
    assert pressed("2-D") == 0
    before = lab.drawn("clusters")
    panel.get_by_role("button", name="Reset", exact=True).click()
    lab.until_redrawn("clusters", before)


def at_rest(lab, name):
    """What a panel shows once no redrawing of before is on its way, which could be taken for an answer."""
    shown = None
    for _ in range(100):
        before, shown = shown, lab.drawn(name)
        if shown == before:
            break
        lab.page.wait_for_timeout(500)
    return shown


def test_the_words_of_the_lens_are_chosen_by_arrow_keys_and_clicks(lab):
    panel = lab.panel("lens")
    lab.settled(panel)
    cells = lab.page.locator(".jp-Cell").count()
    word = panel.get_by_role("slider", name="word", exact=True)
    panel.locator(".ml-story").focus()
    for key, step in (("ArrowLeft", -1), ("ArrowRight", 1)):
        before, at = at_rest(lab, "lens"), float(word.get_attribute("aria-valuenow"))
        lab.page.keyboard.press(key)
        lab.until_redrawn("lens", before)
        assert float(word.get_attribute("aria-valuenow")) == at + step
    before = at_rest(lab, "lens")
    panel.locator(".own").first.evaluate("word => word.previousSibling.previousSibling.click()")
    lab.until_redrawn("lens", before)
    assert float(word.get_attribute("aria-valuenow")) == at + step - 2
    lab.page.keyboard.press("a")  # inserts a cell where the notebook hears it
    lab.page.wait_for_timeout(300)
    assert lab.page.locator(".jp-Cell").count() == cells


def middle(lab, part):
    """Where the middle of a part stands, once it stands still: what is drawn above it moves it."""
    part.scroll_into_view_if_needed()
    box = None
    for _ in range(100):
        before, box = box, part.bounding_box()
        if box == before:
            break
        lab.page.wait_for_timeout(300)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_p_is_dragged_on_the_picture_and_a_head_is_chosen_by_a_click(lab):
    """The kernel's answer is waited for, a slider's value: the picture itself changes with the mouse."""
    value = "Number(slider.getAttribute('aria-valuenow'))"
    panel = lab.panel("expansion")
    lab.settled(panel)
    lab.until_fitting(panel)
    at = middle(lab, panel.locator(".shapelayer path").first)
    lab.page.mouse.move(*at)
    lab.page.mouse.down()
    lab.page.mouse.move(at[0] - 40, at[1] + 20, steps=5)
    lab.page.mouse.up()
    slider = panel.get_by_role("slider", name="p x", exact=True)
    lab.page.wait_for_function(f"slider => {value} < 1.2", arg=slider.element_handle(), polling=100)
    panel = lab.panel("error")
    lab.settled(panel)
    lab.until_fitting(panel)
    lab.page.mouse.click(*middle(lab, panel.locator(".point").nth(3)))
    slider = panel.get_by_role("slider", name="head", exact=True)
    lab.page.wait_for_function(f"slider => {value} === 3", arg=slider.element_handle(), polling=100)


def test_every_label_has_a_sentence_behind_it(lab):
    """What an i says is shown when it has the focus, and goes by Escape."""
    for name in PANELS:
        panel = lab.panel(name)
        lab.unfold(panel, "More")
        bare = panel.evaluate(
            """panel => [...panel.querySelectorAll(".ml-settings .widget-label")].filter(label =>
                label.checkVisibility() && label.textContent && !label.nextElementSibling?.matches(".ml-i"))
                .map(label => label.textContent)"""
        )
        assert not bare, f"{name}: {bare}"
        mark = panel.locator(".ml-i").last
        mark.focus()
        assert panel.locator(".ml-note").text_content() in mark.get_attribute("aria-label")
        frame, note = panel.bounding_box(), panel.locator(".ml-note").bounding_box()
        assert frame["x"] <= note["x"]
        assert note["x"] + note["width"] <= frame["x"] + frame["width"] + 1
        lab.page.keyboard.press("Escape")
        assert not panel.locator(".ml-note").is_visible()


def test_no_console_errors_and_no_request_leaves_this_computer(lab):
    assert not lab.complaints
    assert not lab.outside()
