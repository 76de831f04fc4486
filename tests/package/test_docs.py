"""The site's configuration and its checks, without building it: that takes minutes and the extra `docs`."""

import importlib
import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest

import multipole_lab as ml

ROOT = Path(__file__).resolve().parents[2]
spec = spec_from_file_location("pages", ROOT / "docs/site/pages.py")
pages = module_from_spec(spec)
spec.loader.exec_module(pages)


def test_a_figure_becomes_a_page_part_that_fetches_nothing():
    figure = {"data": [{"type": "bar", "y": [1, 2]}], "layout": {"title": {"text": "two bars"}}}
    output = nbformat.v4.new_output("display_data", {pages.PLOTLY: figure, "text/plain": "Figure"})
    data = pages.for_page(output).data
    assert set(data) == {"text/html", "text/plain"}
    assert "two bars" in data["text/html"]
    assert pages.Links(data["text/html"]).fetched == []
    text = nbformat.v4.new_output("stream", text="words")
    assert pages.for_page(text) == nbformat.v4.new_output("stream", text="words")


def test_an_executed_notebook_keeps_panels_as_figures_and_no_widget_state(tmp_path):
    cells = [
        "import multipole_lab as ml\nml.panels.expansion(steps=9)",
        "import plotly.graph_objects as go\ngo.Figure()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    source = tmp_path / "one.ipynb"
    nbformat.write(notebook, source)
    pages.execute(source, tmp_path / "two.ipynb")
    done = nbformat.read(tmp_path / "two.ipynb", as_version=4)
    for cell in done.cells:
        (output,) = cell.outputs
        assert "Plotly.newPlot" in output.data["text/html"]
        assert "application/vnd.jupyter.widget-view+json" not in output.data
    assert "widgets" not in done.metadata
    assert "expansion panel" in done.cells[0].outputs[0].data["text/plain"]


def test_a_notebooks_link_to_the_words_leads_to_the_sites_page(tmp_path):
    link = "[Words](../docs/design.md#glossary)"
    cells = [nbformat.v4.new_markdown_cell(link), nbformat.v4.new_code_cell(f"text = '{link}'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    pages.execute(tmp_path / "one.ipynb", tmp_path / "two.ipynb")
    words, code = nbformat.read(tmp_path / "two.ipynb", as_version=4).cells
    assert words.source == "[Words](../design.md#glossary)"
    assert code.source == f"text = '{link}'"


PAGE = """<html><head><script src="there.js"></script><link rel="canonical" href="https://example.org/"></head>
<body id="top"><a href="other.html#place">x</a> <a href="https://example.org">outside</a> <a href="#top">x</a></body>
"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "other.html").write_text('<p id="place">')
    (tmp_path / "there.js").write_text("")
    return tmp_path


def test_a_sound_site_passes(site):
    assert pages.check(site) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("other.html#place", "gone.html", "leads to gone.html, which is not there"),
        ("other.html#place", "other.html#gone", "has no such place"),
        ('"#top"', '"#gone"', "has no such place"),
        ("there.js", "https://cdn.example.org/x.js", "fetches https://cdn.example.org/x.js"),
        ("there.js", "gone.js", "leads to gone.js, which is not there"),
    ],
)
def test_a_wrong_link_is_found(site, old, new, words):
    (site / "index.html").write_text(PAGE.replace(old, new))
    (sentence,) = pages.check(site)
    assert words in sentence


def test_the_reference_names_only_what_exists():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names = re.findall(r"auto(?:class|function|method|module):: multipole_lab\.([\w.]+)", text)
    assert len(names) > 15
    for name in names:
        found = ml
        for part in name.split("."):
            try:
                found = getattr(found, part)
            except AttributeError:
                found = importlib.import_module(f"multipole_lab.{name.rsplit('.', 2)[0]}")
                found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
        assert found.__doc__, name


def test_every_figure_says_what_it_shows_and_how_to_read_it():
    for name in ml.figures.__all__:
        words = getattr(ml.figures, name).__doc__
        assert "How to read it:" in words, name


def test_the_app_listens_on_this_computer_with_a_token():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\napp: .venv")[1].split("\n\n")[0]
    assert "--Voila.ip=127.0.0.1" in recipe
    assert "--token" in recipe


def test_the_notebooks_equations_are_drawn_without_a_script():
    convert = pytest.importorskip("latex2mathml.converter", reason="the extra docs").convert
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                for equation in re.findall(r"\$\$(.+?)\$\$", "".join(cell["source"]), re.DOTALL):
                    assert "<math" in convert(equation)
