"""What a cell's output keeps so that a figure's saved picture fits a narrower window; test_browser_kept.py sees it."""

import IPython.display
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from multipole_lab.figures import lines
from multipole_lab.figures.common import kept

HOUSE = lines({"a": ([1, 2], [1, 2])}, "Kept", x="x", y="y")


@pytest.fixture
def shown(monkeypatch):
    every = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: every.append(bundle["text/html"]))
    return every


@pytest.mark.parametrize(
    ("figure", "styles"), [(HOUSE, [kept.STYLE]), (go.Figure(HOUSE), [kept.STYLE]), (go.Figure(), [])]
)
def test_figures_of_this_library_bring_the_style_and_others_do_not(figure, styles, shown):
    kept.Kept().render(figure.to_dict())
    assert shown == styles


@pytest.mark.parametrize(
    ("before", "after"), [("plotly_mimetype", "plotly_mimetype+multipole_lab"), ("svg", "svg")]
)
def test_only_what_jupyterlab_draws_has_the_style_beside_it(before, after, monkeypatch):
    for name in ("_default_name", "_default_renderers", "_to_activate"):
        monkeypatch.setattr(pio.renderers, name, getattr(pio.renderers, name))
    pio.renderers.default = before
    for _ in range(2):
        kept.keep_widths()
        assert pio.renderers.default == after
