"""From results to marks: one CSV for the instructor, one page of feedback for each student."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from multipole_lab import extras, files

TO_GRADE = "to be graded"
_MANUAL = ["student", "question", "points", "out_of", "comment"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ r.assignment }}: {{ r.student }}</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; }
  td, th { text-align: left; padding: .3rem .6rem .3rem 0; vertical-align: top; }
  tr { border-bottom: 1px solid #8885; } .n { white-space: nowrap; } h2 { margin: 1.6rem 0 .3rem; font-size: 1.1rem; }
  pre { white-space: pre-wrap; border-left: 3px solid #8888; padding-left: .8rem; }
</style></head><body>
<h1>{{ r.assignment }}: {{ r.student }}</h1>
<p><strong>{{ total }} of {{ possible }} points{% if r.bonus %}, and {{ r.bonus }} for the bonus{% endif %}.</strong>
{% if waiting %}Written answers are still to be read: {{ waiting|join(", ") }}.{% endif %}</p>
{% if r.problem %}<p>The file could not be graded: {{ r.problem }}.</p>{% endif %}
{% for note in r.notes %}<p>Note: {{ note }}.</p>{% endfor %}
{% for i in r["items"] %}
<h2>{{ i.question }}. {{ i.title }}: {{ "to be graded" if i.earned is none else i.earned }} of {{ i.points }}</h2>
{% if i.reason and not r.problem %}<p>{{ i.reason }}.</p>{% endif %}
{% if i.tests %}<table><tr><th>test</th><th>points</th><th></th></tr>
{% for t in i.tests %}<tr><td>{{ t.name }}</td>
<td class="n">{{ t.earned }} / {{ t.points }}</td><td>{{ t.reason }}</td></tr>
{% endfor %}</table>{% endif %}
{% if i.comment %}<p>{{ i.comment }}</p>{% endif %}
{% if i.answer %}<pre>{{ i.answer }}</pre>{% endif %}
{% endfor %}
</body></html>
"""


def report(out: Path) -> tuple[Path, Path]:
    """Write ``out/grades.csv`` and ``out/feedback/<student>.html`` from ``out/results``.

    Points for written answers are read from ``out/manual.csv``, which is written with one empty line for each of them
    and is filled in by a person; what stands in it is kept, also when more results come in later.

    Raises
    ------
    MissingPackage : without jinja2; the message has the command.
    ValueError : no results yet, or a line of manual.csv that gives no points in range.
    """
    extras.require("a report", "course", "jinja2")
    from jinja2 import Environment

    paths = sorted((out / "results").glob("[!.]*.json"))
    if not paths:
        raise ValueError(f"no results in {out / 'results'}: run `multipole-lab course grade` first")
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    _take_manual(out / "manual.csv", list(results.values()))
    (out / "feedback").mkdir(exist_ok=True)
    page = Environment(autoescape=True).from_string(_PAGE)
    for stem, result in results.items():
        total, possible, waiting = summary(result)
        html = page.render(r=result, total=_plain(total), possible=_plain(possible), waiting=waiting)
        files.write(out / "feedback" / f"{stem}.html", html)
    return _write_csv(out / "grades.csv", list(results.values())), out / "feedback"


def summary(result: dict) -> tuple[float, float, list[str]]:
    """Points without the bonus, how many there could be, and the written questions that wait for a reader."""
    regular = [item for item in result["items"] if not item["bonus"]]
    waiting = [item["question"] for item in regular if item["earned"] is None]
    return sum(i["earned"] or 0.0 for i in regular), sum(i["points"] for i in regular), waiting


def _write_csv(path: Path, results: list[dict]) -> Path:
    questions = list(dict.fromkeys(item["question"] for r in results for item in r["items"]))
    lines = [["student", "assignment", *questions, "points", "possible", "bonus", "to be graded", "problem"]]
    for result in results:
        by_name = {item["question"]: item for item in result["items"]}
        total, possible, waiting = summary(result)
        cells = [by_name[q]["earned"] if q in by_name else "" for q in questions]
        cells = [TO_GRADE if cell is None else _plain(cell) for cell in cells]
        lines.append(
            [
                _harmless(result["student"]),
                result["assignment"],
                *cells,
                _plain(total),
                _plain(possible),
                _plain(result["bonus"]),
                " ".join(waiting),
                _harmless(result["problem"]),
            ]
        )
    return _write_lines(path, lines)


def _take_manual(path: Path, results: list[dict]) -> None:
    """Put points that a person gave into the results, and add a line for every written answer without one."""
    known: dict[tuple[str, str], list[str]] = {}
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            for line in list(csv.reader(file))[1:]:
                if len(line) >= 3:
                    known[line[0], line[1]] = (line + [""] * 5)[:5]
    for result in results:
        for item in result["items"]:
            if not item["manual"] or result["problem"]:
                continue
            key = (_harmless(result["student"]), item["question"])
            line = known.setdefault(key, [*key, "", _plain(item["points"]), ""])
            item["comment"] = line[4]
            if line[2].strip():
                try:
                    item["earned"] = float(line[2])
                except ValueError:
                    item["earned"] = -1.0
                if not 0 <= item["earned"] <= item["points"]:
                    raise ValueError(
                        f"{path}: {key[0]} has {line[2]!r} points for {key[1]}; 0 to {item['points']} are allowed"
                    )
    _write_lines(path, [_MANUAL, *known.values()])


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" and text else text


def _plain(number: float) -> str:
    return f"{number:.10g}"


def _write_lines(path: Path, lines: list[list]) -> Path:
    with files.replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    return path
