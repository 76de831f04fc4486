"""What every panel shares: controls around a figure, redrawn when a control moves, with errors in words."""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets

from multipole_lab.figures.common.theme import CONFIG, enlarge

from .leaving import leave_picture
from .porter import Porter
from .shown import Shown
from .style import STYLE
from .sync import sync_figure

# A move waits this long for the next one: a slider held down then computes once, not at each step.
_SETTLE_SECONDS = 0.03


@dataclass(frozen=True)
class Picture:
    """What a panel shows: the figure, the numbers behind it (columns by name), the share done (0 to 1)."""

    figure: go.Figure
    table: dict[str, np.ndarray | list] = field(default_factory=dict)
    done: float = 1.0


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
        self._version, self._job, self._timer, self._held = 0, None, None, False
        self._picture = Picture(go.Figure())
        self._porter = Porter(label=f"{name} panel")
        self._status, self._message = widgets.HTML(), widgets.HTML()
        self._notice = ""  # shown above the picture whatever is drawn
        self._large = widgets.ToggleButton(
            description="Large type", tooltip="Larger type, for a projector or the back of the room"
        )
        self._begin()  # the first picture, so that the figure made from it starts complete
        self._shown = Shown(self._picture.figure)
        self._shown._config = CONFIG
        self._shown.layout.autosize = True
        box = widgets.Box(list(controls.values())).add_class("ml-controls")
        buttons = widgets.Box([*self._buttons(), self._status]).add_class("ml-buttons")
        super().__init__(
            [widgets.HTML(STYLE), box, self._message, self._shown, *self._below(), buttons, self._porter]
        )
        self.add_class("ml-panel")
        for control in controls.values():
            control.observe(self._moved, "value")
        self._large.observe(self._resized, "value")
        if self._job is not None:
            self._show()
            self._advance(self._version)

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
        return {name: np.asarray(column).tolist() for name, column in self._picture.table.items()}

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
            return f"{name}: {value!r} is not possible; {_choices(control)}."
        if control.value != value and not isinstance(value, float):  # floats are put on the slider's steps
            return f"{name}: {value!r} is not possible; {_choices(control)}."
        return ""

    def reset(self, _button=None) -> None:
        """Put every control back to where it was when the panel was made."""
        self.set(**self._defaults)

    def export(self, kind: str) -> tuple[str, str, str]:
        """Return (file name, media type, text) of the panel's result as "csv", "json" or "html"."""
        if kind == "csv":
            return f"{self.name}.csv", "text/csv", _csv(self.table())
        if kind == "json":
            record = {"panel": self.name, "state": self.state(), "data": self.table()}
            return f"{self.name}.json", "application/json", json.dumps(record, indent=1, default=str)
        if kind == "html":  # plotly.js goes into the file, which so needs no network
            return (
                f"{self.name}.html",
                "text/html",
                self.figure().to_html(include_plotlyjs=True, config=CONFIG),
            )
        raise ValueError(f"kind: must be 'csv', 'json' or 'html', got {kind!r}")

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
        return self._job is None and self._timer is None

    @property
    def summary(self) -> str:
        """The picture in words: its title."""
        text = self._picture.figure.layout.title.text or self.name
        return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()

    def _below(self) -> list[widgets.Widget]:
        """What stands between the figure and the buttons; nothing in most panels."""
        return []

    def _buttons(self) -> list[widgets.Widget]:
        """Make the row below the figure."""
        reset = widgets.Button(description="Reset", tooltip="Put every control back to its first value")
        reset.on_click(self.reset)
        buttons = [reset]
        for kind, words in (("csv", "the numbers"), ("json", "settings and numbers"), ("html", "the figure")):
            button = widgets.Button(
                description=kind.upper(), icon="download", tooltip=f"Save {words} as a file"
            )
            button.on_click(lambda _, kind=kind: self._porter.save(*self.export(kind)))
            buttons.append(button)
        return [*buttons, self._large]

    def _dressed(self) -> go.Figure:
        """The present figure in the size of type that is chosen."""
        return enlarge(self._picture.figure) if self._large.value else self._picture.figure

    def _resized(self, change) -> None:
        """Change the size of all type at once."""
        (self.add_class if change["new"] else self.remove_class)("ml-large")
        sync_figure(self._shown, self._dressed())

    def _moved(self, _change) -> None:
        """Drop what is under way and compute the new state: soon in Jupyter, at once elsewhere."""
        if self._held:
            return
        self._version += 1
        self._job = None
        self._status.value = '<span class="ml-busy" role="status">working …</span>'
        loop = _loop()
        if self._timer is not None:
            self._timer.cancel()
        if loop is None:
            self._restart()
        else:
            self._timer = loop.call_later(_SETTLE_SECONDS, self._restart)

    def _restart(self) -> None:
        """Start on the present state and show its first picture."""
        self._timer = None
        if self._begin():
            self._show()
            self._advance(self._version)

    def _begin(self) -> bool:
        """Start computing; True when there is a first picture. An error is put into words."""
        self._started = time.perf_counter()
        self._job = self.compute(**self.state())
        return self._next()

    def _next(self) -> bool:
        """Take the job's next picture, if it has one."""
        try:
            picture = next(self._job)
        except StopIteration:
            self._job = None
            return False
        except Exception as error:  # whatever went wrong, the panel has to stay usable
            self._job = None
            self._fail(error)
            return False
        self._picture = picture or self._picture
        return picture is not None

    def _advance(self, version: int) -> None:
        """Go on with the job unless a control has moved since; between steps the event loop hears moves."""
        loop = _loop()
        while version == self._version and self._job is not None:
            if self._next():
                self._show()
            if loop is not None:
                loop.call_later(0.001, self._advance, version)
                return

    def _flush(self) -> None:
        """Finish whatever is pending or under way, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._restart()
        while self._job is not None:
            if self._next():
                self._show()

    def _show(self) -> None:
        """Bring the page to the present picture, with the time it took or how far it is."""
        sync_figure(self._shown, self._dressed())
        seconds, done = time.perf_counter() - self._started, self._picture.done
        if done >= 1:
            # The first picture also waits for libraries and the sample: no measure of a redraw.
            words = f"drawn in {seconds * 1000:,.0f} ms" if self._version else "ready"
            self._status.value = f'<span role="status">{words}</span>'
        else:
            bar = f'<progress max="1" value="{done:.2f}"></progress>' if seconds > 3 * done else ""
            fresh = "ml-busy" if seconds < 0.3 else ""
            self._status.value = f'<span class="{fresh}" role="status">{done:.0%} {bar}</span>'
        self._message.value = self._notice
        self._porter.picture = self.summary
        self._porter.values = {c.description: _readout(c) for c in self.controls.values()}

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
        self._status.value = ""


def alert(what: str, why: str, then: str) -> str:
    """A message in a panel, as HTML: what is wrong, why, and what to do."""
    return (
        f'<div class="ml-error" role="alert"><b>{html.escape(what)}</b> {html.escape(why)}<br>'
        f"{html.escape(then)}</div>"
    )


def _loop() -> asyncio.AbstractEventLoop | None:
    """Return the running event loop, if there is one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _choices(control: widgets.Widget) -> str:
    """Say in words what a control allows."""
    if hasattr(control, "_options_full"):
        return f"allowed are {', '.join(str(value) for _, value in control._options_full)}"
    if hasattr(control, "min"):
        return f"{control.min} to {control.max} is allowed"
    return "text is needed"


def _readout(control: widgets.Widget) -> str:
    """Say a control's value the way its own read-out does."""
    return str(getattr(control, "label", None) or control.value)


def _csv(table: dict[str, list]) -> str:
    """Write columns as comma-separated text, quoted where needed."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()
