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
from otherwise import of_a_page

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
_PANEL = re.compile(r"^ml\.panels\.(\w+)\([^()]*\)$")


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
            parts.append(pictures(markdown(of_a_page(source))))
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
