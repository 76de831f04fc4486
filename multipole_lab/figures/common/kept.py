"""A figure of a cell after its notebook was loaded again: as wide as the window is then.

JupyterLab keeps a picture beside each figure, as wide as the window was, and shows that until a mouse rests on it. In a
narrower window it would be cut. A line of style that is kept in the notebook, too, lets it shrink.
"""

from __future__ import annotations

import plotly.io as pio
from plotly.io.base_renderers import ExternalRenderer

from .theme import TEMPLATE

NAME, JUPYTER = "multipole_lab", "plotly_mimetype"
STYLE = """<style class="ml-kept">
.jp-RenderedPlotly > .plot-img { max-width: 100%; }
.jp-OutputArea-child:has(.ml-kept) { display: none; }
</style>"""


class Kept(ExternalRenderer):
    """What plotly calls after it has shown a figure: adds the style to the output of the cell."""

    def render(self, fig: dict) -> None:
        """Add the style if the figure has this library's look."""
        if fig["layout"].get("template") == TEMPLATE.to_plotly_json():
            from IPython.display import display

            display({"text/html": STYLE, "text/plain": ""}, raw=True)


def keep_widths() -> None:
    """Have plotly call `Kept` where it shows figures in JupyterLab; elsewhere no such picture is kept."""
    pio.renderers[NAME] = Kept()
    if pio.renderers.default == JUPYTER:
        pio.renderers.default = f"{JUPYTER}+{NAME}"
