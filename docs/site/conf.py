"""Sphinx: the executed notebooks, the reference, and the start as static pages that load nothing from elsewhere."""

import importlib.metadata
from pathlib import Path

import plotly
from docutils import nodes
from latex2mathml.converter import convert

project = "multipole_lab"
copyright = "the authors of multipole_lab, Apache-2.0"
release = importlib.metadata.version("multipole_lab")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "multipole_lab"
html_static_path = [str(Path(plotly.__file__).parent / "package_data/plotly.min.js")]
html_math_renderer = "mathml"
html_copy_source = False

nb_execution_mode = "off"  # pages.py has executed them
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # they are in the parameters' own words
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
# A notebook may begin its parts with any heading, and says "python" in its blocks of code.
suppress_warnings = ["myst.header", "misc.highlighting_failure", "mystnb.unknown_mime_type", "docutils"]


def inline_math(self, node: nodes.math) -> None:
    """Write an equation in the text as MathML, which browsers draw themselves."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block_math(self, node: nodes.math_block) -> None:
    """Write an equation of its own."""
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def load_plotly(app, page, template, context, doctree) -> None:
    """Load plotly.js in the head of every page, before the figures: the theme puts scripts at the end."""
    address = context["pathto"]("_static/plotly.min.js", resource=True)
    context["metatags"] = context.get("metatags", "") + f'<script src="{address}"></script>'


def setup(app) -> None:
    """Tell Sphinx of the equations and of plotly.js."""
    app.connect("html-page-context", load_plotly)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
