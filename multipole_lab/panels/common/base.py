"""What every panel shares: controls around a figure, redrawn when a control moves, with errors in words."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets

from multipole_lab.figures.common.theme import CONFIG, enlarge

from .export import buttons_to_take_away, exported
from .leaving import leave_picture
from .porter import Porter
from .shown import Shown
from .style import STYLE
from .sync import sync_figure
from .words import alert, allowed_values, button, readout
from .work import Picture, Work


class Panel(widgets.VBox):
    """Controls, a figure, a line of status, and buttons to reset and to take the result away.

    Subclasses define ``compute(**state)``, a generator of :class:`Picture`. Most yield once; long work yields
    as it goes, and is dropped as stale between two yields when a control moves. Inside Jupyter moves are
    handled by the kernel's event loop; elsewhere (a script, a test) at once.

    Parameters
    ----------
    name : used in file names and shown to screen readers.
    controls : widgets with a ``value``, by the name that ``compute`` takes them under.
    """

    def __init__(self, name: str, controls: dict[str, widgets.Widget]) -> None:
        self.name, self.controls = name, controls
        self._defaults = self.state()
        self._held = False  # whether several controls move at once
        self._again = False  # whether the next picture also puts axes and cameras back
        self._work = Work(lambda: self.compute(**self.state()), self._show, self._fail)
        self._porter = Porter(label=f"{name} panel")
        self._status, self._message = widgets.HTML(), widgets.HTML()
        self._notice = ""  # shown above the picture whatever is drawn
        self._large = widgets.ToggleButton(
            description="Large type", tooltip="Larger type, for a projector or the back of the room"
        )
        self._work.begin()  # the first picture, so that the figure made from it starts complete
        self._shown = Shown(self._work.picture.figure)
        self._shown._config = CONFIG
        self._shown.layout.autosize = True
        box = widgets.Box(list(controls.values())).add_class("ml-controls")
        buttons = widgets.Box([*self._buttons(), self._status]).add_class("ml-buttons")
        super().__init__(
            [
                widgets.HTML(STYLE),
                box,
                self._message,
                *self._above(),
                self._shown,
                *self._below(),
                buttons,
                self._porter,
            ]
        )
        self.add_class("ml-panel")
        for control in controls.values():
            control.observe(self._moved, "value")
        self._large.observe(self._resized, "value")
        self._work.go_on()

    def compute(self, **state) -> Iterator[Picture | None]:
        """Yield the picture of ``state``; raise ValueError, in words, for a state that has none.

        The first yield is a picture. A later None draws nothing: it only lets the panel hear of moves.
        """
        raise NotImplementedError

    def state(self) -> dict:
        """Return the present value of every control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def figure(self) -> go.Figure:
        """Return a static copy of the figure in its present state, once all work under way is done."""
        self._flush()
        return go.Figure(self._dressed())

    def table(self) -> dict[str, list]:
        """Return the numbers behind the figure, as columns by name."""
        self._flush()
        return {name: np.asarray(column).tolist() for name, column in self._work.picture.table.items()}

    def set(self, **state) -> None:
        """Move several controls with one redraw: ``panel.set(clusters=32, seed=1)``.

        A control or a value that does not exist moves nothing and is explained in the panel.
        """
        before, wrong = self.state(), ""
        self._held = True
        try:
            for name, value in state.items():
                wrong = wrong or self._place(name, value)
            for name, value in before.items() if wrong else ():
                self.controls[name].value = value
        finally:
            self._held = False
        if wrong:
            self._fail(ValueError(wrong))
        else:
            self._moved(None)

    def _place(self, name: str, value: object) -> str:
        """Move one control; return what is wrong with the name or the value, or an empty string."""
        if name not in self.controls:
            return f"{name}: this panel has no such control; it has {', '.join(self.controls)}."
        control = self.controls[name]
        try:
            control.value = value
        except (traitlets.TraitError, TypeError, ValueError):
            return f"{name}: {value!r} is not possible; {allowed_values(control)}."
        if control.value != value and not isinstance(value, float):  # floats are put on the slider's steps
            return f"{name}: {value!r} is not possible; {allowed_values(control)}."
        return ""

    def at(self, **state) -> Panel:
        """Move several controls as ``set`` does, and return the panel: a cell that ends so shows it."""
        self.set(**state)
        return self

    @property
    def code(self) -> str:
        """The line that makes this panel again, in its present state, where the sample is called ``sample``."""
        moved = [f"{name}={value!r}" for name, value in self.state().items() if value != self._defaults[name]]
        return f"ml.panels.{self._call}" + (f".at({', '.join(moved)})" if moved else "")

    @property
    def _call(self) -> str:
        """The call that makes the panel."""
        return f"{self.name}()"

    def reset(self, _button=None) -> None:
        """Put every control, axis and camera back to where it was when the panel was made."""
        self._again = True
        self.set(**self._defaults)

    def export(self, kind: str) -> tuple[str, str, str]:
        """Return (file name, media type, text) of the panel's result as "csv", "json" or "html"."""
        return exported(self, kind)

    @property
    def message(self) -> str:
        """The error shown in the panel in plain text, or an empty string."""
        return html.unescape(re.sub(r"<[^>]+>", " ", self._message.value)).strip()

    def __repr__(self) -> str:
        return f"{self.name} panel: sliders in Jupyter; elsewhere .set(...), .figure(), .table()"

    def _repr_mimebundle_(self, **kwargs) -> dict | tuple[dict, dict]:
        """The live widget, and for a reader without one (GitHub, nbviewer, a PDF) a picture and its words."""
        return leave_picture(self, super()._repr_mimebundle_(**kwargs))

    @property
    def done(self) -> bool:
        """Whether all work is done that the present state needs."""
        return self._work.done

    @property
    def summary(self) -> str:
        """The picture in words: its title."""
        text = self._work.picture.figure.layout.title.text or self.name
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()

    def _above(self) -> list[widgets.Widget]:
        """What stands between the controls and the figure; nothing in most panels."""
        return []

    def _below(self) -> list[widgets.Widget]:
        """What stands between the figure and the buttons; nothing in most panels."""
        return []

    def _buttons(self) -> list[widgets.Widget]:
        """Make the row below the figure."""
        reset = button("Reset", "Put every control back to its first value", self.reset)
        return [reset, *buttons_to_take_away(self), self._large]

    def _dressed(self) -> go.Figure:
        """The present figure in the size of type that is chosen."""
        return enlarge(self._work.picture.figure) if self._large.value else self._work.picture.figure

    def _resized(self, change) -> None:
        """Change the size of all type at once."""
        (self.add_class if change["new"] else self.remove_class)("ml-large")
        sync_figure(self._shown, self._dressed())

    def _moved(self, _change) -> None:
        """Compute the new state, unless several controls move at once."""
        if not self._held:
            self._status.value = '<span class="ml-busy" role="status">working …</span>'
            self.add_class("ml-working")
            self._work.move()

    def _flush(self) -> None:
        """Finish whatever is pending or under way, now."""
        self._work.finish()

    def _show(self) -> None:
        """Bring the page to the present picture, with the time it took or how far it is."""
        sync_figure(self._shown, self._dressed(), self._again)
        self._again = False
        self.remove_class("ml-working")
        done = self._work.picture.done
        if done >= 1:
            seconds = self._work.ended()
            words = f"drawn in {seconds * 1000:,.0f} ms" if self._work.moves else "ready"
            self._status.value = f'<span role="status">{words}</span>'
            for control in self.controls.values():
                if control.has_trait(
                    "continuous_update"
                ):  # a slider that is dragged then redraws at every step
                    control.continuous_update = self._work.quick
        else:
            seconds = time.perf_counter() - self._work.started
            bar = f'<progress max="1" value="{done:.2f}"></progress>' if seconds > 3 * done else ""
            fresh = "ml-busy" if seconds < 0.3 else ""
            self._status.value = f'<span class="{fresh}" role="status">{done:.0%} {bar}</span>'
        self._message.value = self._notice
        self._porter.picture = self.summary
        self._porter.values = {c.description: readout(c) for c in self.controls.values()}

    def _fail(self, error: Exception) -> None:
        """Say what is wrong above the figure, which keeps the last picture that worked."""
        words = (
            str(error) if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {error}"
        )
        self._message.value = self._notice + alert(
            "This cannot be drawn.",
            words,
            "The picture below is the last one that worked. Move a control, or press Reset.",
        )
        self.remove_class("ml-working")
        self._status.value = ""
