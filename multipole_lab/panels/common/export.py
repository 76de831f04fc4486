"""A panel's result to take away: its numbers, its settings with them, or the figure as a page."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from typing import TYPE_CHECKING

import ipywidgets as widgets

from multipole_lab.figures.common.theme import CONFIG

from ..tools.settings import Fold
from .words import button

if TYPE_CHECKING:
    from .base import Panel


def exported(panel: Panel, kind: str) -> tuple[str, str, str]:
    """(file name, media type, text) of a panel's result as "csv", "json" or "html"."""
    if kind == "csv":
        return f"{panel.name}.csv", "text/csv", _csv(panel.table())
    if kind == "json":
        record = {"panel": panel.name, "state": panel.state(), "data": panel.table()}
        return f"{panel.name}.json", "application/json", json.dumps(record, indent=1, default=str)
    if kind == "html":  # plotly.js goes into the file, which so needs no network
        page = panel.figure().to_html(include_plotlyjs=True, config=CONFIG)
        return f"{panel.name}.html", "text/html", page
    raise ValueError(f"kind: must be 'csv', 'json' or 'html', got {kind!r}")


def button_rows(panel: Panel) -> list[widgets.Widget]:
    """The rows below a figure: what a reader does with the panel, and folded away what can be taken from it."""
    reset = button("Reset", "Put every control back to its first value", panel.reset)
    present = button(
        "Present", "Fill the screen with this panel, in large type; Esc leaves it", _nothing, "expand"
    )
    saved = Fold(
        "Take away",
        "Show or hide: code, link, numbers and picture",
        widgets.Box(_to_take_away(panel)).add_class("ml-buttons"),
    )
    play = [panel._player.button] if panel._player else []
    row = [*panel._buttons(), *play, panel._history.button, reset, panel._hold.button]
    row += [present.add_class("ml-present"), panel._large, saved, panel._status]
    return [widgets.Box(row).add_class("ml-buttons"), saved.inside]


def _to_take_away(panel: Panel) -> list[widgets.Button]:
    """The line of code, a link, the numbers, the figure and its picture, each by a button."""
    porter = panel._porter
    made = [
        button(
            "Code", "Copy the line that makes this panel again", lambda _: porter.copy(panel.code), "copy"
        ),
        button(
            "Link",
            "Copy a link to this page with this panel as it is",
            lambda _: porter.link(panel._changed()),
            "link",
        ),
    ]
    for kind, words in (("csv", "the numbers"), ("json", "settings and numbers"), ("html", "the figure")):
        save = partial(_save, panel, kind)
        made.append(button(kind.upper(), f"Save {words} as a file", save, "download"))
    for kind in ("png", "svg"):
        draw = partial(_draw, panel, kind)
        made.append(button(kind.upper(), "Save the picture as a file", draw, "download"))
    return made


def _nothing(_button: object) -> None:
    """The page does it: only there a person's press opens the whole screen."""


def _save(panel: Panel, kind: str, _button: object) -> None:
    panel._porter.save(*panel.export(kind))


def _draw(panel: Panel, kind: str, _button: object) -> None:
    panel._porter.draw(panel.name, kind)


def _csv(table: dict[str, list]) -> str:
    """Write columns as comma-separated text, quoted where needed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()
