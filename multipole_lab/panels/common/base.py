"""What every panel shares: controls around a figure, redrawn when a control moves, with errors in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import ipywidgets as widgets
import plotly.graph_objects as go

from multipole_lab.figures.common.theme import CONFIG, enlarge

from ..tools.history import History
from ..tools.hold import Hold
from ..tools.play import Player
from ..tools.settings import Settings
from ..tools.status import Status
from .export import button_rows
from .porter import Porter
from .readable import Readable
from .shown import Shown
from .style import STYLE
from .sync import sync_figure
from .words import about, alert, place, readout
from .work import Picture, Work


class Panel(Readable):
    """Controls, a figure, a line of status, and buttons to reset and to take the result away.

    Subclasses define ``compute(**state)``, a generator of :class:`Picture`. Most yield once; long work yields
    as it goes, and is dropped as stale between two yields when a control moves. Inside Jupyter moves are
    handled by the kernel's event loop; elsewhere (a script, a test) at once.

    Parameters
    ----------
    name : used in file names and shown to screen readers.
    controls : widgets with a ``value``, by the name that ``compute`` takes them under.
    """

    # Names of the controls in sight, at most four; the first ones where none is named.
    main: tuple[str, ...] = ()
    plays = ""  # the name of a slider that a button walks through

    def __init__(self, name: str, controls: dict[str, widgets.Widget]) -> None:
        self.name, self.controls = name, controls
        self._defaults = self.state()
        self._held = False  # whether several controls move at once
        self._again = False  # whether the next picture also puts axes and cameras back
        self._work = Work(lambda: self.compute(**self.state()), self._show, self._fail)
        self._porter = Porter(f"{name} panel", self._hear)
        self._status, self._message = Status(), widgets.HTML()
        self._notice = ""  # shown above the picture whatever is drawn
        self._large = widgets.ToggleButton(
            description="Large type", tooltip="Larger type, for a projector or the back of the room"
        )
        self._settings = Settings(controls, self.main, self._extra())
        self._history = History(self._moment, self._return_to)
        self._hold = Hold(self)
        self._player = Player(self, self.plays) if self.plays else None
        self._work.begin()  # the first picture, so that the figure made from it starts complete
        self._shown = Shown(self._work.picture.figure)
        self._shown._config = CONFIG
        self._shown.layout.autosize = True
        figures = widgets.Box([widgets.Box([self._shown]).add_class("ml-figure"), self._hold.box])
        view = [self._message, *self._above(), figures.add_class("ml-figures"), *self._below()]
        stage = widgets.Box([self._settings, widgets.VBox(view).add_class("ml-view")]).add_class("ml-stage")
        super().__init__([widgets.HTML(STYLE), stage, *button_rows(self), self._porter])
        self.add_class("ml-panel")
        for control in controls.values():
            control.observe(self._moved, "value")
        self._large.observe(self._resized, "value")
        labelled = [one for one in self._extra() if hasattr(one, "value") and one.description]
        self._porter.about = {one.description: about(one) for one in [*controls.values(), *labelled]}
        self._history.begin()
        self._work.go_on()

    def compute(self, **state) -> Iterator[Picture | None]:
        """Yield the picture of ``state``; raise ValueError, in words, for a state that has none.

        The first yield is a picture. A later None draws nothing: it only lets the panel hear of moves.
        """
        raise NotImplementedError

    def state(self) -> dict:
        """Return the present value of every control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **state) -> None:
        """Move several controls with one redraw: ``panel.set(clusters=32, seed=1)``.

        A control or a value that does not exist moves nothing and is explained in the panel.
        """
        before, wrong = self.state(), ""
        self._held = True
        try:
            for name, value in state.items():
                wrong = wrong or place(self.controls, name, value)
            for name, value in before.items() if wrong else ():
                self.controls[name].value = value
        finally:
            self._held = False
        if wrong:
            self._fail(ValueError(wrong))
        else:
            self._moved(None)

    def at(self, **state) -> Panel:
        """Move several controls as ``set`` does, and return the panel: a cell that ends so shows it."""
        self.set(**state)
        return self

    def undo(self) -> None:
        """Take the last move back, as the button does."""
        self._history.undo()

    def reset(self, _button=None) -> None:
        """Put every control, axis and camera back to where it was when the panel was made."""
        self._again = True
        self.set(**self._defaults)

    def _above(self) -> list[widgets.Widget]:
        """What stands between the controls and the figure; nothing in most panels."""
        return []

    def _below(self) -> list[widgets.Widget]:
        """What stands between the figure and the buttons; nothing in most panels."""
        return []

    def _extra(self) -> list[widgets.Widget]:
        """What stands first among the settings that are folded away; nothing in most panels."""
        return []

    def _buttons(self) -> list[widgets.Widget]:
        """What only this panel has in the row below the figure; nothing in most panels."""
        return []

    def _moment(self) -> dict:
        """All that undoing brings back, by name."""
        return self.state()

    def _return_to(self, moment: Mapping[str, object]) -> None:
        """Bring back a moment."""
        self.set(**moment)

    def _hear(self, what: str, value: object) -> None:
        """Hear what the page says by itself."""
        if what == "shown":
            self._status.shown(value)
        elif what == "present":
            self._large.value = bool(value)
        else:
            try:
                self.set(**value)
            except TypeError as error:  # a name that no control can have
                self._fail(error)

    def _dressed(self) -> go.Figure:
        """The present figure in the size of type that is chosen."""
        return enlarge(self._work.picture.figure) if self._large.value else self._work.picture.figure

    def _resized(self, change) -> None:
        """Change the size of all type at once."""
        (self.add_class if change["new"] else self.remove_class)("ml-large")
        sync_figure(self._shown, self._dressed())

    def _moved(self, _change) -> None:
        """Compute the new state, unless several controls move at once."""
        if self._held:
            return
        playing = self._player is not None and self._player.playing
        self._history.note(playing)
        if playing:
            self._player.moved()
        self._hold.tell()
        if not self._work.quick:  # each word costs the page a frame
            self._status.working()
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
        self._message.value = self._notice
        with self._porter.hold_sync():  # one message, after the picture: the page answers it
            self._porter.picture = self.summary
            self._porter.values = {c.description: readout(c) for c in self.controls.values()}
            if self._work.picture.done == 1:
                self._porter.drawn = self._status.drawn(self._work)
        if self._work.picture.done < 1:
            self._status.under_way(self._work)
            return
        for control in self.controls.values():
            if control.has_trait("continuous_update"):  # a slider that is dragged then redraws at every step
                control.continuous_update = self._work.quick
        if self._player is not None:
            self._player.drawn()

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
        if self._player is not None:
            self._player.drawn()
