"""What a panel says in words: messages, buttons, what a control allows, and its value."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping

import ipywidgets as widgets
import traitlets


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


def said(control: widgets.Widget, value: object) -> str:
    """Say a value that a control may have the way its read-out would."""
    labels = {one: label for label, one in getattr(control, "_options_full", ())}
    return str(labels.get(value, f"{value:g}" if isinstance(value, float) else value))


def about(control: widgets.Widget) -> str:
    """What a control does, in a sentence; of a choice, what each option means."""
    if isinstance(control, widgets.ToggleButtons):
        options = zip(control._options_labels, control.tooltips, strict=True)
        sentence = "; ".join(f"{label}: {meaning[0].lower()}{meaning[1:]}" for label, meaning in options)
    else:
        sentence = control.tooltip or control.description
    return sentence if sentence.endswith(".") else f"{sentence}."


def place(controls: Mapping[str, widgets.Widget], name: str, value: object) -> str:
    """Move one control; return what is wrong with the name or the value, or an empty string."""
    if name not in controls:
        return f"{name}: this panel has no such control; it has {', '.join(controls)}."
    control = controls[name]
    try:
        control.value = value
    except (traitlets.TraitError, TypeError, ValueError):
        return f"{name}: {value!r} is not possible; {allowed_values(control)}."
    if control.value != value and not isinstance(value, float):  # floats are put on the slider's steps
        return f"{name}: {value!r} is not possible; {allowed_values(control)}."
    return ""


def plain(text: str) -> str:
    """A message or a title as HTML has it, as words on one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()
