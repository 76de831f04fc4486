"""The gallery: every figure, and the three lines that make it."""

from __future__ import annotations

import ast
import html
import inspect
import json
import re
from functools import cache

import plotly.graph_objects as go
from states import plain

import multipole_lab as ml
from multipole_lab.panels.common.shown import parts_of

START = 'import multipole_lab as ml\nsample = ml.load_sample("smollm2").crop(512)'
# Figures are functions of arrays. A panel has computed the arrays of most of them already.
LINES = {
    "lens": 'panel = ml.panels.lens(sample)\npanel.set(query=300, near=2, leaf=64)\npanel.figure()',
    "matrix": 'panel = ml.panels.matrix(sample)\npanel.set(sort="cluster", near=4)\npanel.figure()',
    "clusters": "panel = ml.panels.clusters(sample)\npanel.set(clusters=16, layer=15)\npanel.figure()",
    "expansion": 'panel = ml.panels.expansion(steps=25)\npanel.set(p_x=1.2, order="dipole")\npanel.figure()',
    "error": "panel = ml.panels.error(sample)\npanel.set(clusters=32, near=2)\npanel.figure()",
    "blocks": 'panel = ml.panels.blocks(sample)\npanel.set(leaf=64, colour="error", clusters=16)\npanel.figure()',
    "decode": "panel = ml.panels.decode(sample)\npanel.set(budget=64, step=12)\npanel.figure()",
    "writing": "panel = ml.panels.writing(sample)\npanel.set(budget=32)\npanel.figure()",
    "speed": "panel = ml.panels.speed(sample)\npanel.set(clusters=16)\npanel.figure()",
    "front": "panel = ml.panels.front(sample)\npanel.set(budget=80)\npanel.figure()",
    "tuner": "panel = ml.panels.tuner(sample)\npanel.tune()  # what the button does\npanel.figure()",
    "cost": 'panel = ml.panels.cost(ml.load_sample("smollm2"))\npanel.set(tokens=65536, method="MuSe")\npanel.figure()',
    "roofline": 'panel = ml.panels.roofline()\npanel.set(device="H200", tokens=16384)\npanel.figure()',
    "lines": (
        "clusters = (8, 16, 32, 64)\n"
        "table = ml.compare(sample, [ml.MuSe(clusters=c) for c in clusters], layers=[15], repeats=1)\n"
        'ml.figures.lines({"MuSe": (clusters, table["rse"])}, "More clusters, less error", x="clusters", y="error")'
    ),
    "fields": (
        "import numpy as np; at = np.linspace(-1, 1, 41); x, y = np.meshgrid(at, at)\n"
        'off = {"the charge at the origin": abs(1 / np.hypot(x - 0.3, y) - 1 / np.hypot(x, y + 1e-9))}\n'
        'ml.figures.fields(at, off, np.array([[0.3, 0.0]]), np.array([1.0]))'
    ),
    "sweep": (
        "methods = [ml.MuSe(clusters=c) for c in (8, 16, 32)]\n"
        "found = ml.sweep(sample, methods, lengths=[256, 512], layers=[15], repeats=1)\n"
        'ml.figures.sweep(found["ms"], found["rse"], found["length"], found["method"], 0.1, "this machine")'
    ),
    "parallel": (
        "import numpy as np; tokens = np.array([4096, 16384, 65536])\n"
        "ring, muse = 512.0 * tokens, np.full(3, 512.0 * 64)  # keys and values, or 64 summaries\n"
        "ml.figures.parallel(tokens, muse, ring, ranks=2)"
    ),
    "step": (
        "from multipole_lab.bench.recorded import record\n"
        'run = record("step-cpu-two-processes")  # of `multipole-lab train --profile 1`\n'
        'ml.figures.step(run["profiles"], "Two processes of one computer share every text.")'
    ),
}  # fmt: skip


@cache
def drawn(name: str) -> go.Figure:
    """The figure that the lines make."""
    space: dict = {}
    tree = ast.parse(f"{START}\n{LINES[name]}")
    last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, name, "exec"), space)
    return eval(compile(last, name, "eval"), space)


def body() -> str:
    """All figures as HTML."""
    parts = [
        "<h1>All figures</h1><p>Every figure is a function of arrays that returns a plotly figure. All begin with</p>",
        f"<pre><code>{html.escape(START)}</code></pre>",
        "<p>Lines that measure time show the machine that built this page.</p>",
    ]
    for name in ml.figures.__all__:
        figure = parts_of(drawn(name))
        words = inspect.getdoc(getattr(ml.figures, name)).split("\n\nParameters")[0]
        said = "".join(f"<p>{written(part)}</p>" for part in words.split("\n\n"))
        data = json.dumps(plain(figure), ensure_ascii=False).replace("</", "<\\/")
        parts.append(
            f'<h2 id="{name}">{name}</h2>{said}<pre><code>{html.escape(LINES[name])}</code></pre>'
            f'<div class="ml-panel"><div class="plot" role="figure" aria-label="{name}" id="figure-{name}"></div></div>'
            f'<script type="application/json" data-figure="figure-{name}">{data}</script>'
        )
    return "\n".join(parts) + f"<script>{_DRAW}</script>"


def written(text: str) -> str:
    """A paragraph of a docstring as HTML: names as code, words that stand between stars leaning."""
    text = re.sub(r"``(.+?)``", r"<code>\1</code>", html.escape(text), flags=re.DOTALL)
    return re.sub(r"\*(\w[\w -]*)\*", r"<em>\1</em>", text)


# Pictures are drawn when they are about to be seen.
_DRAW = """
const seen = new IntersectionObserver((entries) => entries.filter((one) => one.isIntersecting).forEach(({ target }) => {
  seen.unobserve(target);
  const { data, layout } = JSON.parse(document.querySelector(`[data-figure="${target.id}"]`).textContent);
  Plotly.newPlot(target, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false });
}), { rootMargin: "800px" });
document.querySelectorAll("[id^=figure-]").forEach((place) => seen.observe(place));
"""
