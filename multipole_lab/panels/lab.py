"""The desk: lens, matrix, clusters, error and speed on one page, with sliders that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import ipywidgets as widgets
import plotly.graph_objects as go

from .clusters import ClustersPanel
from .common.base import Panel
from .common.desk import check_state, code_block, desk_buttons, line_of
from .common.leaving import leave_picture
from .common.porter import Porter
from .common.sampled import open_sample
from .common.style import STYLE
from .common.words import about, alert, plain, readout
from .error import ErrorPanel
from .lens import LensPanel
from .matrix import MatrixPanel
from .speed import SpeedPanel
from .tools.history import History

_KINDS = {
    "lens": LensPanel,
    "matrix": MatrixPanel,
    "clusters": ClustersPanel,
    "error": ErrorPanel,
    "speed": SpeedPanel,
}
_SHARED = ("layer", "head", "context", "clusters", "near", "order", "attention")
# Without speed, which measures whenever a slider moves: when it is asked for.
_FIRST = ("lens", "matrix", "clusters", "error")


class LabPanel(widgets.VBox):
    """Several panels of one sample; what two of them have a control for is one control, and a move in one shows in all.

    A panel that is not shown computes nothing; it is made when it is first shown.

    Parameters
    ----------
    sample : as for every panel.
    show : names of the panels that are shown.
    state : values of shared controls, and ``own``, those of a panel's own controls by its name.

    Attributes
    ----------
    panels : those that were shown so far, by name. controls : those that are shared.
    """

    name = "lab"

    def __init__(self, sample, show=_FIRST, **state) -> None:
        self.sample = open_sample(sample)
        self.panels: dict[str, Panel] = {}
        self._quiet = False
        first = MatrixPanel.controls_for(None, self.sample)
        self.controls = {name: first[name] for name in _SHARED}
        self._toggles = {
            name: widgets.ToggleButton(value=name in show, description=name, tooltip=f"Show or hide: {name}")
            for name in _KINDS
        }
        self._message, self._code = widgets.HTML(), widgets.HTML()
        self._porter = Porter("lab panel", self._hear)
        self._porter.about = {control.description: about(control) for control in self.controls.values()}
        self._history = History(self.state, lambda moment: self.set(**moment))
        self._grid = widgets.Box().add_class("ml-lab-grid")
        box = widgets.Box(list(self.controls.values())).add_class("ml-controls")
        shown = widgets.Box([*self._toggles.values(), *desk_buttons(self)]).add_class("ml-buttons")
        super().__init__(
            [widgets.HTML(STYLE), shown, box, self._message, self._code, self._grid, self._porter]
        )
        self.add_class("ml-panel").add_class("ml-lab")
        self._defaults = self.state()
        check_state({**state, "show": show}, self.controls, _KINDS)
        with self._held():
            for name in _SHARED:
                self.controls[name].value = state.get(name, self.controls[name].value)
        with self._history.still():
            self._arrange()
            for name, values in state.get("own", {}).items():
                if name in self.panels:
                    self.panels[name].set(**values)
        self._history.begin()
        for name, control in [*self.controls.items(), *self._toggles.items()]:
            control.observe(self._spread if name in self.controls else self._arrange, "value")
        self._say()

    def state(self) -> dict:
        """The values of the shared controls, which panels are shown, and their own controls' values, by name."""
        shared = {name: control.value for name, control in self.controls.items()}
        own = {
            name: {c: v for c, v in panel.state().items() if c not in _SHARED}
            for name, panel in self._shown()
        }
        return {**shared, "show": tuple(name for name, one in self._toggles.items() if one.value), "own": own}

    def set(self, **state) -> None:
        """Move controls: ``desk.set(clusters=64, show=("lens", "error"), own={"lens": {"query": 7}})``.

        A name or a value that does not exist moves nothing and is explained above the pictures.
        """
        self._message.value = ""
        try:
            check_state(state, self.controls, _KINDS)
        except ValueError as error:
            self._message.value = alert("This cannot be shown.", str(error), "Nothing was moved.")
            return
        shown = state.get("show", self.state()["show"])
        with self._history.still():
            with self._held():
                for name in self._toggles:
                    self._toggles[name].value = name in shown
                for name in _SHARED:
                    self.controls[name].value = state.get(name, self.controls[name].value)
            self._arrange()
            for name, panel in self._shown():
                panel.set(**self._shared_with(panel), **state.get("own", {}).get(name, {}))
        self._say()

    def undo(self) -> None:
        """Take the last move back, as the button does."""
        self._history.undo()

    def reset(self, _button=None) -> None:
        """Put every control back to where it was when the desk was made without a state."""
        with self._held():
            for _, panel in self._shown():
                panel.reset()
        self.set(**{name: self._defaults[name] for name in _SHARED})

    @property
    def code(self) -> str:
        """The line that makes this desk again: what differs from one that is just made."""
        own = {name: panel._defaults for name, panel in self.panels.items()}
        return line_of("ml.panels.lab(sample", self.state(), {**self._defaults, "show": _FIRST, "own": own})

    @property
    def message(self) -> str:
        """All errors that are shown in plain text, or an empty string."""
        return " ".join(
            filter(None, [plain(self._message.value), *(panel.message for _, panel in self._shown())])
        )

    @property
    def summary(self) -> str:
        """The pictures in words."""
        return "; ".join(panel.summary for _, panel in self._shown())

    def figure(self) -> go.Figure:
        """A static copy of the first figure that is shown."""
        return next((panel.figure() for _, panel in self._shown()), go.Figure())

    def __repr__(self) -> str:
        return f"{self.name} panel: {', '.join(self.state()['show'])}; sliders in Jupyter; elsewhere .set(...), .panels"

    def _repr_mimebundle_(self, **kwargs) -> dict | tuple[dict, dict]:
        """The live widget, and for a reader without one the first picture and the words of all."""
        return leave_picture(self, super()._repr_mimebundle_(**kwargs))

    def _hear(self, what: str, value: object) -> None:
        """Take a state from a link; all else that the page says is for the panels."""
        if what == "state":
            try:
                self.set(**value)
            except TypeError as error:
                self._message.value = alert("This link cannot be shown.", str(error), "Nothing was moved.")

    def _shown(self) -> list[tuple[str, Panel]]:
        """The panels that are shown, by name, in the order of the page."""
        return [
            (name, self.panels[name])
            for name, one in self._toggles.items()
            if one.value and name in self.panels
        ]

    def _arrange(self, _change=None) -> None:
        """Make the panels that are shown now, bring them to the shared values, and put them on the page."""
        if self._quiet:
            return
        for name, one in self._toggles.items():
            if one.value and name not in self.panels:
                self.panels[name] = self._made(_KINDS[name](self.sample))
        for _, panel in self._shown():
            panel.set(**self._shared_with(panel))
        self._grid.children = [panel for _, panel in self._shown()]
        self._say()

    def _made(self, panel: Panel) -> Panel:
        """A panel that has given its shared controls to the desk."""
        panel._settings.leave_out(_SHARED)
        for name, control in panel.controls.items():
            control.observe(partial(self._raise, name) if name in _SHARED else self._say, "value")
        return panel

    def _raise(self, name: str, change: Mapping[str, object]) -> None:
        """A panel has moved a control that is shared: all follow."""
        if not self._quiet:
            self.controls[name].value = change["new"]

    def _spread(self, _change) -> None:
        """Bring all that is shown to the shared values."""
        if self._quiet:
            return
        with self._held():
            for _, panel in self._shown():
                panel.set(**self._shared_with(panel))
        self._say()

    def _shared_with(self, panel: Panel) -> dict:
        """The shared values that a panel has a control for and that it does not have yet."""
        own = panel.state()
        return {n: c.value for n, c in self.controls.items() if n in own and own[n] != c.value}

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Moves inside the block are not passed on."""
        self._quiet, before = True, self._quiet
        try:
            yield
        finally:
            self._quiet = before

    def _say(self, _change=None) -> None:
        """Show the line that makes this desk again."""
        if not self._quiet:
            self._history.note()
            self._code.value = code_block(self.code)
            self._porter.values = {c.description: readout(c) for c in self.controls.values()}


def lab(sample, show: tuple[str, ...] = _FIRST, **state) -> LabPanel:
    """Show lens, matrix, clusters, error and speed on one page. ``sample`` is from ``ml.load_sample``.

    Parameters
    ----------
    show : names of the panels to begin with.
    state : values of the shared controls (layer, head, context, clusters, near, order, attention), and ``own``, those
        of a panel's own controls, as the line on the desk has them:
        ``ml.panels.lab(sample, clusters=64, own={"lens": {"query": 7}})``.

    Raises
    ------
    ValueError : a name or a value that does not exist. TypeError : what is no sample.
    """
    return LabPanel(sample, show, **state)
