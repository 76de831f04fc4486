"""Pages without a kernel: every panel has one, and its sliders move the picture where a browser opens it as a file."""

import ast
import importlib
import json
from pathlib import Path

import browsing
import plotly.graph_objects as go
import pytest
from subclasses import derived

import multipole_lab as ml
from multipole_lab.panels.common.base import Panel
from multipole_lab.panels.common.work import Picture

SITE = Path(__file__).resolve().parents[2] / "docs/site"


@pytest.fixture
def site(monkeypatch):
    """A module of docs/site, by name."""
    monkeypatch.syspath_prepend(str(SITE))
    return importlib.import_module


def test_every_panel_has_a_page_of_states_that_it_allows(site, monkeypatch):
    plans = site("plans")
    assert {*plans.PLANS, "lab"} == set(ml.panels.__all__)
    for cls in derived(Panel):  # pictures are another matter
        monkeypatch.setattr(cls, "compute", lambda self, **state: iter([Picture(go.Figure(go.Scatter()))]))
    for name, plan in [*plans.PLANS.items(), *plans.DESK.items()]:
        panel = plan.make()
        panel.set(**plan.fixed)
        for control, values in plan.moves.items():
            for value in {values[0]: 0, values[len(values) // 2]: 0, values[-1]: 0}:
                panel.set(**{control: value})
                assert panel.message == "", (name, control, value)
                assert panel.state()[control] == value


def test_what_states_share_is_kept_once_and_comes_back(site):
    pool = site("states").Pool()
    numbers = [i / 7 for i in range(40)]
    packed = [pool.pack({"data": [{"y": numbers, "name": name}], "words": "a"}) for name in "ab"]
    assert sum(part == [site("states").plain(x) for x in numbers] for part in pool.parts) == 1

    def whole(value):
        if isinstance(value, list):
            return [whole(part) for part in value]
        if isinstance(value, dict):
            return whole(pool.parts[value["$"]]) if "$" in value else {k: whole(v) for k, v in value.items()}
        return value

    for name, one in zip("ab", json.loads(json.dumps(packed, allow_nan=False)), strict=True):
        (trace,) = whole(one)["data"]
        assert trace["name"] == name
        assert trace["y"] == pytest.approx(numbers, rel=1e-5)


def test_what_is_no_number_becomes_nothing(site):
    assert site("states").plain([float("nan"), 2.0, b"\0"]) == [None, 2, {"bytes": "AA=="}]


def test_pages_say_nothing_that_is_so_of_a_live_panel_only(site):
    here = site("states").plain(
        {"text": "Measured just<br>now on this. Left is faster. Click on a dot to<br>see another head."}
    )
    assert here == {"text": "Measured beforehand on this. Left is faster."}
    assert "now" not in site("live").words_of("speed")
    assert "this machine" not in site("live").words_of("cost")
    for name, plan in site("plans").PLANS.items():
        assert plan.ask.endswith((".", "?", ".)")), f"{name}: what is a reader to try?"


def test_the_gallery_writes_a_docstrings_names_as_code(site):
    written = site("gallery").written("``level`` < *leaves* 2 * 3 * 4")
    assert written == "<code>level</code> &lt; <em>leaves</em> 2 * 3 * 4"


def test_states_beyond_3_MB_are_refused(site, monkeypatch, tmp_path):
    live = site("live")
    monkeypatch.setattr(live, "compute", lambda plan: {"states": []})
    monkeypatch.setattr(live, "packed", lambda states: "x" * 3_000_001)
    with pytest.raises(ValueError, match=r"0 states, 3\.00 MB.*take states out of plans"):
        live.keep(tmp_path, "error", None)


def test_the_gallery_has_every_figure_in_three_lines(site):
    gallery = site("gallery")
    assert set(gallery.LINES) == set(ml.figures.__all__)
    for name, lines in gallery.LINES.items():
        assert len(lines.splitlines()) <= 3, name
        assert isinstance(ast.parse(lines).body[-1], ast.Expr), name
    for name in ("expansion", "fields", "parallel"):  # the others need seconds: `make docs` runs all
        assert isinstance(gallery.drawn(name), go.Figure)


def test_the_tour_becomes_a_page_with_its_panels_in_order(site, monkeypatch):
    tour = site("tour")
    ran = []
    monkeypatch.setattr(tour, "printed", lambda source, space: ran.append(source) or "")
    page, panels = tour.body(set(site("plans").PLANS), convert=lambda equation, display: f"[{display}]")
    assert panels == ["lens", "matrix", "clusters", "expansion", "error", "speed"]
    assert [page.index(f'data-states="{name}"') for name in panels] == sorted(
        page.index(f'data-states="{name}"') for name in panels
    )
    assert any("ml.compare" in source for source in ran)
    for rest in (
        "Run All Cells",
        "click in a square",
        ".ipynb",
        "../docs/",
        "images/",
        "$$",
        "less than a minute",
        "More<",
    ):
        assert rest not in page, rest
    assert "[inline]" in page
    assert "[block]" in page
    assert page.count("data:image/svg+xml;base64,") == 4


def test_a_cell_shows_what_it_prints_and_its_last_value(site):
    space = {}
    printed = site("tour").printed
    assert printed("x = 3\nprint('<b>')\nx + 1", space) == "<pre>&lt;b&gt;\n</pre><pre>4</pre>"
    assert printed("y = x", space) == ""
    assert space["y"] == 3


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Two small pages, and a desk of two players."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        live, plan = importlib.import_module("live"), importlib.import_module("states").Plan
        sample = ml.load_sample("smollm2").crop(256)
        small = {
            "expansion": plan(
                lambda: ml.panels.expansion(steps=9),
                {"order": ("monopole", "dipole"), "p_x": (-1.2, 0.0, 1.2)},
            ),
            "lens": plan(
                lambda: ml.panels.lens(sample),
                {"near": (0, 2), "query": (20, 60, 191)},
                {"clusters": 8, "leaf": 32},
            ),
        }
        patch.setattr(live, "PLANS", small)
        folder = tmp_path_factory.mktemp("a folder with spaces")
        live.make(folder, small)
        body = "".join(live.section(name, tied=True) for name in small)
        live.write(folder, "whole", "Both", f"<h1>Both</h1>{body}", list(small), whole=True)
        (folder / "whole.html").rename(folder.parent / "alone.html")  # nothing stands beside it
    return folder


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(params=["light", "dark"])
def opened(request, browser):
    """A page in a light or a dark browser; its complaints and calls are looked at when all is done."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints, addresses = [], []
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: addresses.append(one.url))
    yield page
    context.close()
    assert complaints == []
    assert {address.split(":")[0] for address in addresses} <= {"file", "data", "blob"}


def title(page, panel):
    """A figure's title, once it is drawn."""
    place = page.locator(f"#{panel} .gtitle").first
    place.wait_for()
    return place.text_content()


@pytest.mark.browser
def test_a_page_moves_by_keyboard_mouse_and_click_and_calls_nobody(opened, pages):
    opened.goto((pages / "lens.html").as_uri())
    first = title(opened, "lens")
    word = opened.get_by_role("slider", name="word", exact=True)
    assert word.get_attribute("aria-valuetext") == "191"
    word.focus()
    opened.keyboard.press("ArrowLeft")
    assert word.get_attribute("aria-valuetext") == "60"
    second = title(opened, "lens")
    assert second != first
    assert opened.get_by_role("status").filter(has_text=second.split("”")[0]).count() == 1
    opened.locator(".ml-story [data-at='25']").first.click()  # the word nearest to it that the page holds
    assert word.get_attribute("aria-valuetext") == "20"
    assert opened.locator(".ml-story .own").first.get_attribute("data-at") == "20"
    opened.get_by_role("button", name="Reset", exact=True).click()
    assert title(opened, "lens") == first
    opened.locator("summary").nth(1).click()
    assert (
        'ml.load_sample("smollm2").crop(256)\nml.panels.lens(sample).at('
        in opened.locator("pre").text_content()
    )
    axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    opened.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = opened.evaluate("""async () => (await axe.run(document)).violations
        .filter(v => ['serious', 'critical'].includes(v.impact)).map(v => `${v.id}: ${v.nodes[0].html}`)""")
    assert found == []


@pytest.mark.browser
@pytest.mark.parametrize("opened", ["light"], indirect=True)
def test_one_file_holds_several_panels_that_move_together(opened, pages):
    opened.goto((pages.parent / "alone.html").as_uri())
    before = title(opened, "expansion"), title(opened, "lens")
    opened.get_by_role("slider", name="p x").press("ArrowLeft")
    assert title(opened, "expansion") != before[0]
    assert title(opened, "lens") == before[1]
    opened.locator("#lens").get_by_role("slider", name="near").press("ArrowLeft")
    opened.locator("#lens").get_by_role("button", name="Reset", exact=True).click()  # of a desk, all go back
    assert (title(opened, "expansion"), title(opened, "lens")) == before
    opened.evaluate("document.documentElement.style.width = '420px'")  # a telephone's width
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1000
