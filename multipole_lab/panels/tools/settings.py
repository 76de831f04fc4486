"""The controls of a panel in their places: a few that are always seen, the others behind a button."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as widgets

MOST = 4  # controls that are always seen: as many as a reader tries before reading on


class Fold(widgets.ToggleButton):
    """A button that shows and hides ``inside``, which is hidden at first."""

    def __init__(self, words: str, tooltip: str, inside: widgets.Box) -> None:
        super().__init__(description=words, tooltip=tooltip)
        self.inside = inside.add_class("ml-folded")
        self.add_class("ml-fold")
        self.observe(self._turn, "value")
        self._turn(None)

    def _turn(self, _change) -> None:
        """Show or hide."""
        self.inside.layout.display = None if self.value else "none"


class Settings(widgets.Box):
    """Controls: up to four in sight, the others under "More".

    Parameters
    ----------
    controls : by name. main : names of those in sight; the first ones where none is named.
    extra : what stands first under "More".
    """

    def __init__(
        self,
        controls: Mapping[str, widgets.Widget],
        main: Sequence[str],
        extra: Sequence[widgets.Widget] = (),
    ) -> None:
        self._controls, self._names, self._extra = dict(controls), main, tuple(extra)
        self.main, hidden = (widgets.Box().add_class("ml-controls") for _ in range(2))
        self.more = Fold("More", "Show or hide the other settings", hidden)
        super().__init__([self.main, self.more, hidden])
        self.add_class("ml-settings")
        self.leave_out(())

    def leave_out(self, names: Sequence[str]) -> None:
        """Arrange all controls but these, which stand elsewhere; others move up where there is room."""
        here = {name: control for name, control in self._controls.items() if name not in names}
        first = [name for name in self._names if name in here]
        first += [name for name in here if name not in first] if not first else []
        main = first[:MOST] if len(here) > MOST else list(here)
        self.main.children = [here[name] for name in main]
        rest = [control for name, control in here.items() if name not in main]
        self.more.inside.children = [*self._extra, *rest]
        self.more.layout.display = None if self.more.inside.children else "none"
