"""The state of a desk of several panels: what is possible, the line of code that makes it again, its buttons."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import ipywidgets as widgets

from multipole_lab.suggesting import question

from .words import allowed_values, button

if TYPE_CHECKING:
    from ..lab import LabPanel


def check_state(
    state: Mapping[str, object], controls: Mapping[str, widgets.Widget], panels: Collection[str]
) -> None:
    """Refuse what a desk has not.

    Parameters
    ----------
    state : values of shared controls by name, "show" with names of panels, "own" with values of panels by name.
    controls : the shared ones. panels : names of those that can be shown.

    Raises
    ------
    ValueError : a name that is none of these, a value that a shared control cannot have, a panel that there is not.
    """
    known = (*controls, "show", "own")
    for name, value in state.items():
        if name not in known:
            raise ValueError(
                f"{name}: the desk has no such control{question(name, known)}; it has {', '.join(known)}."
            )
        if name in controls and not _allows(controls[name], value):
            raise ValueError(f"{name}: {value!r} is not possible; {allowed_values(controls[name])}.")
        if name == "show" and isinstance(value, str):
            raise ValueError(f"show: {value!r} is one name; several in brackets are needed: ({value!r},).")
        for one in value if name in ("show", "own") else ():
            if one not in panels:
                raise ValueError(
                    f"{name}: there is no panel {one!r}{question(one, panels)}; there are {', '.join(panels)}."
                )


def line_of(call: str, state: Mapping[str, object], first: Mapping[str, object]) -> str:
    """A call with the arguments whose values differ from the first ones; of "own", the values in it that do."""
    moved = {name: value for name, value in state.items() if name != "own" and value != first[name]}
    own = {
        name: {key: one for key, one in values.items() if one != first["own"][name][key]}
        for name, values in state["own"].items()
    }
    own = {name: values for name, values in own.items() if values}
    if own:
        moved["own"] = own
    return f"{', '.join([call, *(f'{name}={value!r}' for name, value in moved.items())])})"


def code_block(line: str) -> str:
    """The line that makes a desk again, as HTML."""
    what = 'class="ml-code" role="region" aria-label="line that makes this desk again"'
    return f"<pre {what}>{html.escape(line)}</pre>"


def desk_buttons(desk: LabPanel) -> list[widgets.Widget]:
    """The buttons that undo, copy and reset."""
    porter = desk._porter
    return [
        desk._history.button,
        button("Copy", "Copy the line that makes this desk again", lambda _: porter.copy(desk.code), "copy"),
        button(
            "Link",
            "Copy a link to this page with the desk as it is",
            lambda _: porter.link(desk.state()),
            "link",
        ),
        button("Reset all", "Put every control back to its first value", desk.reset),
    ]


def _allows(control: widgets.Widget, value: object) -> bool:
    """Whether a control can have a value."""
    if hasattr(control, "_options_full"):
        return value in [option for _, option in control._options_full]
    return isinstance(value, int) and control.min <= value <= control.max
