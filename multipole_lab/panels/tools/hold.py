"""A picture that is held while the panel goes on: two settings beside each other."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import ipywidgets as widgets

from multipole_lab.figures.common.theme import CONFIG

from ..common.shown import Shown
from ..common.words import said

if TYPE_CHECKING:
    from ..common.base import Panel


class Hold:
    """A button that keeps the present picture beside the one that goes on, and says in which settings they differ.

    Attributes
    ----------
    button : pressed while a picture is held. box : the picture that is held, empty where there is none.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel, self._state = panel, {}
        self.button = widgets.ToggleButton(
            description="Hold", icon="thumb-tack", tooltip="Keep this picture beside the ones that come"
        )
        self.words = widgets.HTML()
        self.box = widgets.Box().add_class("ml-held")
        self.button.observe(self._pressed, "value")

    def tell(self) -> None:
        """Say in which settings the two pictures differ now."""
        if self.button.value:
            self.words.value = f'<span role="status">{html.escape(self._differing())}</span>'

    def _pressed(self, change) -> None:
        """Hold the present picture, or let go of it."""
        if change["new"]:
            picture = Shown(self._panel.figure())
            picture._config = CONFIG
            self._state = self._panel.state()
            self.box.children = [self.words, widgets.Box([picture]).add_class("ml-figure")]
            self._panel.add_class("ml-holding")
            self.tell()
        else:
            for place in self.box.children[1:]:
                place.children[0].close()
                place.close()
            self.box.children = []
            self._panel.remove_class("ml-holding")

    def _differing(self) -> str:
        """The settings that differ, as they are held and as they are now."""
        controls, now = self._panel.controls, self._panel.state()
        moved = {name: value for name, value in self._state.items() if value != now[name]}
        if not moved:
            return "This picture is held: move a control, and compare."
        return f"Held: {_listed(controls, moved)}. Now: {_listed(controls, {name: now[name] for name in moved})}."


def _listed(controls: Mapping[str, widgets.Widget], values: Mapping[str, object]) -> str:
    """Controls with their values, as the page has them."""
    return ", ".join(
        f"{controls[name].description} {said(controls[name], value)}" for name, value in values.items()
    )
