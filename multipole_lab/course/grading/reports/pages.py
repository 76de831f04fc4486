"""The pages that `report` writes: one of feedback for each student, one that sums the class up.

Each is a single file without scripts, readable at the width of a phone, in light and in dark.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from multipole_lab import extras

if TYPE_CHECKING:
    from jinja2 import Template

_STYLE = """
  :root { color-scheme: light dark; }
  * { box-sizing: border-box; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 1.5rem auto; padding: 0 1rem;
    overflow-wrap: anywhere; }
  table { border-collapse: collapse; width: 100%; }
  td, th { text-align: left; padding: .3rem .6rem .3rem 0; vertical-align: top; }
  tr { border-bottom: 1px solid #8885; } .n { white-space: nowrap; } h2 { margin: 1.6rem 0 .3rem; font-size: 1.1rem; }
  pre { white-space: pre-wrap; border-left: 3px solid #8888; padding-left: .8rem; }
  .bars { display: flex; align-items: flex-end; gap: 2px; height: 6rem; padding: 0; margin: .5rem 0; }
  .bars li { flex: 1; list-style: none; display: flex; flex-direction: column; justify-content: flex-end;
    height: 100%; font-size: .75rem; text-align: center; }
  .bars i { display: block; background: #38d; border-top: 1px solid #38d; }
  @media (max-width: 36rem) {
    table.tests, .tests tbody, .tests tr, .tests td { display: block; } .tests th { display: none; }
    .tests td { padding: .1rem 0; } .tests td:first-child { font-weight: 600; padding-top: .4rem; }
  }
"""
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style|safe }}</style></head><body>
<h1>{{ title }}</h1>
"""

_FEEDBACK = (
    _HEAD
    + """<p><strong>{{ total }} of {{ possible }} points{% if r.bonus %}, and {{ r.bonus|points }} for the bonus{%
endif %}.</strong>
{% if waiting %}Written answers are still to be read: {{ waiting|join(", ") }}.{% endif %}</p>
{% if handed_in %}<p>Handed in {{ handed_in }}{% if late %}, late by {{ late }}{% endif %}.</p>{% endif %}
{% if r.problem %}<p>The file could not be graded: {{ r.problem }}.</p>{% endif %}
{% for note in notes %}<p>Note: {{ note }}.</p>{% endfor %}
{% for i in r["items"] %}
<h2>{{ i.question }}. {{ i.title }}: {{ "to be graded" if i.earned is none else i.earned|points }} of
{{ i.points|points }}</h2>
{% if i.reason and not r.problem %}<p>{{ i.reason }}.</p>{% endif %}
{% if i.tests %}<table class="tests"><tr><th>test</th><th>points</th><th></th></tr>
{% for t in i.tests %}<tr><td>{{ t.name }}</td>
<td class="n">{{ t.earned|points }} / {{ t.points|points }}</td><td>{{ t.reason }}</td></tr>
{% endfor %}</table>{% endif %}
{% if i.comment %}<p>{{ i.comment }}</p>{% endif %}
{% if i.answer %}<pre>{{ i.answer }}</pre>{% endif %}
{% endfor %}
</body></html>
"""
)

_SUMMARY = (
    _HEAD
    + """<p>{{ students }} students{%
if ungraded %}, {{ ungraded }} of them without a notebook that could be graded{% endif %}{%
if late %}; {{ late }} late{% endif %}.
Points without the bonus: mean {{ total.mean }}, median {{ total.median }} of {{ total.points }}.
Written answers count when they have been read.</p>
{% for q in [total] + questions %}
<h2>{{ q.name }}. {{ q.title }}: mean {{ q.mean }} of {{ q.points }}</h2>
<ol class="bars" aria-label="how many students have how many points">
{% for bar in q.bars %}<li title="{{ bar.label }} points: {{ bar.count }}">{{ bar.count or "" }}<i
style="height: {{ bar.height }}%"></i>{{ bar.label }}</li>
{% endfor %}</ol>
{% if q.unread %}<p>{{ q.unread }} still to be read.</p>{% endif %}
{% if q.mistakes %}<table class="tests"><tr><th>what went wrong</th><th>students</th><th>where</th></tr>
{% for m in q.mistakes %}<tr><td>{{ m.reason }}</td><td class="n">{{ m.count }} of {{ students }}</td>
<td>{{ m.where }}</td></tr>
{% endfor %}</table>{% endif %}
{% endfor %}
</body></html>
"""
)


def plain(number: float) -> str:
    """Points as people write them: 5, 2.5."""
    return f"{number:.10g}"


def feedback(**values: object) -> str:
    """A student's page: of ``title``, ``r`` (the result) and what `report` adds to it."""
    return _render(_FEEDBACK, **values)


def summary(**values: object) -> str:
    """The class's page, of what `class_summary` gives."""
    return _render(_SUMMARY, **values)


def require_tools() -> None:
    """Refuse to begin without what makes pages."""
    extras.require("a report", "course", "jinja2")


def _render(page: str, **values: object) -> str:
    return _template(page).render(style=_STYLE, **values)


@cache
def _template(page: str) -> Template:
    from jinja2 import Environment

    environment = Environment(autoescape=True)
    environment.filters["points"] = plain
    return environment.from_string(page)
