"""What a panel says in words: messages, buttons, what a control allows, and its value."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets


def button(words: str, tooltip: str, call: Callable[[object], object], icon: str = "") -> widgets.Button:
    """A button that calls when it is pressed."""
    made = widgets.Button(description=words, tooltip=tooltip, icon=icon)
    made.on_click(call)
    return made


def alert(what: str, why: str, then: str) -> str:
    """A message in a panel, as HTML: what is wrong, why, and what to do."""
    return (
        f'<div class="ml-error" role="alert"><b>{html.escape(what)}</b> {html.escape(why)}<br>'
        f"{html.escape(then)}</div>"
    )


def allowed_values(control: widgets.Widget) -> str:
    """Say in words what a control allows."""
    if hasattr(control, "_options_full"):
        return f"allowed are {', '.join(str(value) for _, value in control._options_full)}"
    if hasattr(control, "min"):
        return f"{control.min} to {control.max} is allowed"
    return "text is needed"


def readout(control: widgets.Widget) -> str:
    """Say a control's value the way its own read-out does."""
    return str(getattr(control, "label", None) or control.value)
