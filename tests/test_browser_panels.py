"""Every panel in a real JupyterLab: by keyboard, in both themes, at two widths, under a scan for accessibility."""

import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest

spec = spec_from_file_location("browsing", Path(__file__).with_name("browsing.py"))
browsing = module_from_spec(spec)
spec.loader.exec_module(browsing)

# The controls that the keyboard moves in each panel: sliders by their name, groups of buttons by the one to press.
CONTROLS = {
    "clusters": (["layer", "head", "context", "clusters", "cap", "iterations", "seed", "spotlight"], ["3-D"]),
    "expansion": (["p x", "p y", "query x", "query y", "clusters", "spread", "seed"], ["output", "dipole"]),
    "error": (["layer", "head", "context", "clusters", "cap", "iterations", "near", "seed"], ["centroid"]),
    "blocks": (["layer", "head", "context", "leaf", "clusters", "near"], ["dipole", "error", "mass"]),
    "decode": (
        ["layer", "head", "context", "budget", "keys/centre", "sinks", "recent", "step"],
        ["one", "dropped"],
    ),
    "roofline": (["tokens", "clusters", "near", "head size"], []),
    "tuner": (["max error"], []),
    "front": (["budget"], ["causal"]),
    "speed": (["up to", "clusters"], ["dipole"]),
}
# What measures goes on doing so after its cell: last, so that it does not hold up the others.
PANELS = list(CONTROLS)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def write_notebook(path):
    """A notebook with all panels, on a short text so that measuring takes seconds."""
    cells = ["import multipole_lab as ml\nsample = ml.load_sample('smollm2').crop(512)"]
    cells += [f"ml.panels.{name}({'' if name in ('expansion', 'roofline') else 'sample'})" for name in PANELS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The notebook of all panels, run to its end."""
    folder = tmp_path_factory.mktemp("lab")
    with browsing.chromium() as browser, browsing.jupyter_lab(folder) as (url, token):
        write_notebook(folder / "notebooks/panels.ipynb")
        opened = browsing.Notebook(browser.new_page(viewport={"width": 1280, "height": 1000}))
        opened.open(url, token, "panels.ipynb")
        errors = opened.run_all()
        assert not errors, f"cells failed: {errors}"
        yield opened


def press(lab, panel, name, slider):
    """Move a slider by one key; at its upper end the other way."""
    handle = panel.get_by_role("slider", name=slider, exact=True)
    value = handle.get_attribute("aria-valuenow")
    handle.focus()
    lab.page.keyboard.press("ArrowRight")
    lab.page.wait_for_timeout(50)
    if handle.get_attribute("aria-valuenow") == value:
        lab.page.keyboard.press("ArrowLeft")


@pytest.mark.parametrize("name", PANELS)
def test_every_control_moves_the_figure_by_keyboard(lab, name):
    panel = lab.panel(f"{name}")
    sliders, buttons = CONTROLS[name]
    for slider in sliders:
        before = lab.drawn(name)
        press(lab, panel, name, slider)
        lab.until_redrawn(name, before)
    for button in buttons:
        before = lab.drawn(name)
        panel.get_by_role("button", name=button, exact=True).focus()
        lab.page.keyboard.press("Enter")
        lab.until_redrawn(name, before)
    before = lab.drawn(name)
    panel.get_by_role("button", name="Reset", exact=True).focus()
    lab.page.keyboard.press("Enter")
    lab.until_redrawn(name, before)
    assert panel.get_by_role("alert").count() == 0


def test_twenty_moves_in_two_seconds_end_at_the_last_value_within_a_second(lab):
    panel = lab.panel("clusters")
    panel.get_by_role("button", name="Reset", exact=True).click()
    lab.settled(panel)
    panel.get_by_role("slider", name="clusters", exact=True).focus()
    keys = ["ArrowRight", "ArrowRight", "ArrowLeft"] * 6 + ["ArrowLeft", "ArrowLeft"]
    at = 3  # of the options 2, 4, 8, 16, ...
    for key in keys:
        lab.page.keyboard.press(key)
        lab.page.wait_for_timeout(100)
        at = min(max(at + (1 if key == "ArrowRight" else -1), 0), 9)
    start = time.perf_counter()
    lab.page.wait_for_function(
        "words => document.querySelector(`.ml-panel[aria-label='clusters panel'] .gtitle`).textContent"
        ".includes(words)",
        arg=f"become {2 ** (at + 1)} clusters",
        timeout=30_000,
    )
    lag = time.perf_counter() - start
    assert lag < 1, f"{lag:.2f} s after the last key"
    assert panel.get_by_role("alert").count() == 0


def test_a_sample_that_cannot_be_opened_is_explained_in_the_panel(lab):
    panel = lab.panel("clusters")
    box = panel.get_by_role("combobox")
    box.fill("no such sample")
    lab.page.keyboard.press("Enter")
    alert = panel.get_by_role("alert")
    alert.wait_for(timeout=30_000)
    assert "no sample 'no such sample'" in alert.text_content()
    box.fill("smollm2")
    lab.page.keyboard.press("Enter")
    alert.wait_for(state="detached", timeout=30_000)
    lab.page.wait_for_function(
        "() => document.querySelector(`.ml-panel[aria-label='clusters panel'] .gtitle`).textContent"
        ".includes('512 keys')",
        timeout=30_000,
    )


def test_the_roofline_follows_its_device_and_the_tuner_its_button(lab):
    panel = lab.panel("roofline")
    panel.get_by_role("combobox").select_option("A100 80GB")
    panel.get_by_text("A100 80GB").first.wait_for(timeout=30_000)
    before = lab.drawn("tuner")
    panel = lab.panel("tuner")
    panel.get_by_role("button", name="Copy", exact=True).click()
    panel.get_by_role("button", name="Large type", exact=True).click()
    lab.until_redrawn("tuner", before)
    panel.get_by_role("button", name="Large type", exact=True).click()


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_pictures_and_accessibility_in_each_theme(lab, theme):
    axe_package = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    axe = (Path(axe_package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    browsing.SHOTS.mkdir(exist_ok=True)
    lab.theme(f"JupyterLab {theme}")
    lab.page.evaluate(axe)
    found = {}
    for width in (1280, 900):
        lab.page.set_viewport_size({"width": width, "height": 1000})
        for name in PANELS:
            panel = lab.panel(name)
            lab.settled(panel)
            lab.page.wait_for_timeout(600)  # plotly redraws to the new width
            panel.screenshot(path=browsing.SHOTS / f"panel-{name}-{theme.lower()}-{width}.png")
            wide = panel.evaluate("panel => panel.scrollWidth - panel.clientWidth")
            assert wide <= 1, f"{name} is {wide} pixels wider than its place"
            if width == 1280:
                found[name] = lab.page.evaluate(
                    """async name => {
                        const panel = document.querySelector(`.ml-panel[aria-label='${name} panel']`);
                        const { violations } = await axe.run(panel, { resultTypes: ['violations'] });
                        return violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(
                            v => `${v.id}: ${v.help}: ${v.nodes.map(n => n.html.slice(0, 160)).slice(0, 3)}`);
                    }""",
                    name,
                )
    lab.page.set_viewport_size({"width": 1280, "height": 1000})
    panel = lab.panel("decode")
    switch = panel.get_by_role("button", name="Large type", exact=True)
    switch.click()
    lab.page.wait_for_timeout(1000)
    panel.screenshot(path=browsing.SHOTS / f"panel-decode-{theme.lower()}-large.png")
    switch.click()
    lab.theme("JupyterLab Light")
    assert not {name: serious for name, serious in found.items() if serious}


def test_no_console_errors_and_no_request_leaves_this_computer(lab):
    assert not lab.complaints
    assert not lab.outside()
