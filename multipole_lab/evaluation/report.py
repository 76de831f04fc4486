"""A report to read in a browser or to send: one HTML file that needs nothing from the network."""

from __future__ import annotations

import html
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import pandas
import plotly.graph_objects as go

from multipole_lab import files
from multipole_lab.evaluation import DENSE
from multipole_lab.evaluation.engine import Evaluation
from multipole_lab.figures.common.theme import CONFIG
from multipole_lab.method_text import parse_method
from multipole_lab.table import printed

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; max-width: 66rem;
  margin: 2rem auto; padding: 0 1rem; background: #fff; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.5rem; text-align: right; border-bottom: 1px solid #8886; white-space: nowrap; }
th.word, td.word { text-align: left; }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } }
</style>
</head>
<body>
<h1>$title</h1>
<p>$model</p>
<p>$reading</p>
<div class="wide">$table</div>
$figures
<details><summary>Where this comes from</summary><pre>$header</pre></details>
</body>
</html>
""")


def compression(method: str, rows: pandas.DataFrame) -> dict[str, float]:
    """For a line of a table, of a clustered cache only: the share of keys that its steps leave out.

    ``compression ratio`` as kvpress counts it, and ``with centroids`` where those read count like keys.

    Parameters
    ----------
    method : as the rows name it. rows : those of the line, each with the ``tokens`` of its context.
    """
    settings = None if method == DENSE else getattr(parse_method(method), "settings", None)
    if settings is None:
        return {}
    return {
        name: statistics.fmean(settings.compression_ratio(int(n), centroids) for n in rows["tokens"])
        for name, centroids in (("compression ratio", False), ("with centroids", True))
    }


def write(
    path: Path,
    evaluation: Evaluation,
    table: pandas.DataFrame,
    figures: Sequence[go.Figure],
    header: Mapping[str, object],
) -> None:
    """Write the report; a half-written one never stands in its place."""
    shown = [
        f"<figure>{figure.to_html(full_html=False, include_plotlyjs=(i == 0), config=CONFIG)}</figure>"
        for i, figure in enumerate(figures)
    ]
    page = PAGE.substitute(
        title=html.escape(evaluation.title),
        model=html.escape(_model(header)),
        reading=html.escape(evaluation.reading),
        table=_html(table),
        figures="\n".join(shown),
        header=html.escape(json.dumps(header, indent=1, ensure_ascii=False)),
    )
    files.write(path, page)


def as_text(table: pandas.DataFrame) -> str:
    """The table for a terminal."""
    return printed(table.reset_index(drop=True), cell=_cell)


def _model(header: Mapping[str, object]) -> str:
    """What was evaluated, in a line."""
    settings = header["settings"]
    model = settings["model"]
    name = model.get("hub_id") or model.get("name") or model["class"]
    device = header.get("device", settings["device"])  # older records kept only "cpu" or "cuda"
    return f"{name} ({model['class']}), {settings['dtype']} on {device}, begun on {header['date']}"


def _html(table: pandas.DataFrame) -> str:
    kinds = ["" if pandas.api.types.is_numeric_dtype(table[name]) else ' class="word"' for name in table]
    head = "".join(
        f"<th{kind}>{html.escape(str(name))}</th>" for name, kind in zip(table, kinds, strict=True)
    )
    lines = [
        "".join(
            f"<td{kind}>{html.escape(_cell(name, value))}</td>"
            for name, value, kind in zip(table, line, kinds, strict=True)
        )
        for line in table.itertuples(index=False)
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(name: str, value: object) -> str:
    """A number with the digits that it deserves."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    if name == "value":  # of a group: a length, a depth
        return f"{value:g}"
    if name == "above (%)":
        return f"{value:+.3f}"
    if name == "KL":
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"
    digits = {"loss": 4, "seconds": 1, "perplexity": 2}.get(name, 3)
    return f"{value:.{digits}f}"
