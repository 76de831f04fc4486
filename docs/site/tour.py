"""The tour as one page: its words, its code folded away with what it prints, and its panels as players."""

from __future__ import annotations

import ast
import base64
import contextlib
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import mistune

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
_PANEL = re.compile(r"^ml\.panels\.(\w+)\([^()]*\)$")
# What is said of JupyterLab and is not so here.
_OTHERWISE = {
    r"Run the cells from top to bottom:.*?brought you to it\.": "Every slider can be moved with the mouse, or with the "
    "arrow keys after the Tab key has brought you to it. Nothing is computed while you read: the pictures were made "
    "when this page was built. Some controls are missing therefore, and others have fewer steps; some pictures show a "
    "shorter text.",
    r" It runs on a CPU, without a network; the cells take less than a minute on two cores\.": "",
    r",(?: or)? click in a square(?:, or drag the ring around it)?": "",
    r"Click on a dot to see another head\. Then read": "Read",
    r"\s*Every panel works like this one\..*?the panel shows that\.": "",
    r" \(under \*\*More\*\*\)|, under \*\*More\*\*,": "",
    r"\]\((\d\d_\w+)\.ipynb\)": r"](../notebooks/\1.html)",
    r"\]\(\.\./docs/([\w/]+)\.md(#[\w-]+)?\)": r"](../\1.html\2)",
}


def body(
    panels: set[str], notebook: str = "00_tour", convert: Callable[[str, str], str] | None = None
) -> tuple[str, list[str]]:
    """A notebook as HTML.

    Parameters
    ----------
    panels : those that have states; a cell that shows one of them becomes its player.
    notebook : its name.
    convert : turns an equation and "inline" or "block" into HTML; MathML by latex2mathml to begin with.

    Returns
    -------
    The HTML, and the names of the panels in it, in their order.
    """
    from live import section

    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    markdown, space, parts, needed = reader(convert or mathml), {}, [], []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for said, here in _OTHERWISE.items():
                source = re.sub(said, here, source, flags=re.DOTALL)
            parts.append(pictures(markdown(source)))
            continue
        shown = _PANEL.match(source.strip())
        if shown and shown[1] in panels and shown[1] not in needed:
            needed.append(shown[1])
            parts.append(section(shown[1]))
        else:
            parts.append(f"<pre><code>{html.escape(source)}</code></pre>{printed(source, space)}")
    return "\n".join(parts), needed


def reader(convert: Callable[[str, str], str]) -> Callable[[str], str]:
    """A reader of markdown with tables and equations."""
    markdown = mistune.create_markdown(escape=False, plugins=["table", "math"])
    markdown.renderer.register("inline_math", lambda _, text: convert(text, "inline"))
    markdown.renderer.register("block_math", lambda _, text: f"<p>{convert(text, 'block')}</p>")
    return markdown


def mathml(equation: str, display: str) -> str:
    """An equation as MathML, which browsers draw themselves."""
    from latex2mathml.converter import convert

    return convert(equation, display=display)


def pictures(page: str) -> str:
    """A page with the notebooks' pictures inside it."""

    def inside(found: re.Match) -> str:
        picture = base64.b64encode((NOTEBOOKS / found[1]).read_bytes()).decode()
        return f'src="data:image/svg+xml;base64,{picture}"'

    return re.sub(r'src="(images/[\w.]+\.svg)"', inside, page)


def printed(source: str, space: dict) -> str:
    """Run a cell and return what it prints and its last value, as a notebook shows them."""
    tree, out = ast.parse(source), io.StringIO()
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(out):
        exec(compile(tree, "<cell>", "exec"), space)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), space)
    text = f"<pre>{html.escape(out.getvalue())}</pre>" if out.getvalue() else ""
    if value is None:
        return text
    return text + (
        value._repr_html_() if hasattr(value, "_repr_html_") else f"<pre>{html.escape(repr(value))}</pre>"
    )
