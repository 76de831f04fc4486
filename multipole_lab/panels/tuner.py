"""The tuner panel: an error that you accept in, the fastest method under it out, as a line to paste."""

from __future__ import annotations

import html
import queue
import threading
from collections.abc import Iterator

import ipywidgets as widgets
import numpy as np

from multipole_lab.figures import tuner as draw
from multipole_lab.suggesting import suggesting

from .common.base import Picture
from .common.timed import TimedPanel

_PAUSE_SECONDS = 0.05


class TunerPanel(TimedPanel):
    """Search once, then move the allowed error: the recommendation follows from what was measured."""

    title = "tuner"

    def __init__(self, sample) -> None:
        self._found, self._search = None, None
        self._code = widgets.HTML()
        super().__init__(sample)

    def controls_for(self, sample) -> dict:
        """Make the one control: the error that is allowed."""
        errors = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
        return {
            "max_error": widgets.SelectionSlider(
                options=[(f"{error:g}", error) for error in errors], value=0.02, description="max error",
                tooltip="The largest relative squared error that you accept", continuous_update=False,
            )
        }  # fmt: skip

    def compute(self, max_error) -> Iterator[Picture | None]:
        """Show what is recommended under this error; search first where that was asked for."""
        if self._search is None:
            yield self._draw(max_error)
            return
        search, self._search = self._search, None
        yield self._draw(max_error, "Searching: every method against exact attention, turn by turn", 0.01)
        search.start()
        try:
            for share in search.shares():
                if share is None:
                    yield None
                else:
                    yield self._draw(max_error, f"Searching: {share:.0%} is done", min(share, 0.99))
        finally:
            search.stop()  # also where a move of the slider has dropped this generator
        self._found = search.result()
        yield self._draw(max_error)

    def forget(self) -> None:
        """Drop what was found on the sample before."""
        self._found = None

    def _draw(self, max_error: float, note: str = "", done: float = 1.0) -> Picture:
        """Choose from what was measured, and draw it."""
        if self._found is None:
            nothing = np.empty(0)
            self._say("")
            figure = draw(nothing, nothing, [], max_error, None, self.machine, note or "Press Tune to search")
            return Picture(figure, {"method": [], "rse": [], "speedup": []}, done)
        table = self._found.table
        methods = [str(method) for method in table["method"]]
        rse, speedup = (table[name].to_numpy(float) for name in ("rse", "speedup"))
        allowed = np.flatnonzero(rse <= max_error)
        chosen = int(allowed[speedup[allowed].argmax()]) if len(allowed) else None
        if chosen is None:
            self._say("")
        elif speedup[chosen] <= 1:
            self._say("# nothing allowed is faster\nattend = ml.Exact()")
        else:
            line = f"attend = ml.{methods[chosen]}"
            self._say(self._found.code if self._found.code.splitlines()[-1] == line else line)
        figure = draw(rse, speedup, methods, max_error, chosen, self.machine, note)
        return Picture(figure, {"method": methods, "rse": rse, "speedup": speedup}, done)

    @property
    def code(self) -> str:
        """The recommendation as a line to paste, or an empty string."""
        return self._line

    def _say(self, code: str) -> None:
        """Show the line to paste."""
        self._line = code
        what = 'class="ml-code" role="region" aria-label="recommended line"'
        self._code.value = (
            f"<pre {what}>{html.escape(code) or '# Tune writes the recommended line here'}</pre>"
        )

    def _below(self) -> list[widgets.Widget]:
        """The recommended line stands below the figure."""
        return [self._code]

    def _buttons(self) -> list[widgets.Widget]:
        """Add the buttons that search and that copy."""
        tune = widgets.Button(
            description="Tune",
            button_style="primary",
            tooltip="Search for the fastest method under the error",
        )
        tune.on_click(self._tune)
        copy = widgets.Button(
            description="Copy", icon="copy", tooltip="Copy the recommended line, to paste into your code"
        )
        copy.on_click(lambda _: self._porter.copy(self.code))
        return [tune, copy]

    def _tune(self, _button=None) -> None:
        """Search again for the present error."""
        self._search = Search(self.sample, self.controls["max_error"].value)
        self._moved(None)

    def tune(self):
        """Search now and wait for the result, as the button does; returns what ``ml.tune`` returns."""
        self._tune()
        self._flush()
        return self._found


class Search:
    """``ml.tune`` in a thread, so that the page is heard while it measures."""

    def __init__(self, sample, max_error: float) -> None:
        self.sample, self.max_error = sample, max_error
        self._news: queue.Queue = queue.Queue()
        self._stopped = threading.Event()
        self._result, self._error = None, None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        import pandas  # noqa: F401  here, not in the thread: plotly would find it half imported there

        self._thread.start()

    def shares(self) -> Iterator[float | None]:
        """Yield the share that is done whenever it changes, and None in between, until the end."""
        while self._thread.is_alive():
            share = None
            try:
                share = self._news.get(timeout=_PAUSE_SECONDS)
                while True:
                    share = self._news.get_nowait()
            except queue.Empty:
                yield share

    def result(self):
        """Return what was found; raise what went wrong, in words."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def stop(self) -> None:
        """End at the next word of progress."""
        self._stopped.set()

    def _run(self) -> None:
        """Search; whatever goes wrong is for the panel to say."""
        try:
            from multipole_lab.search import tune

            self._result = tune(self.sample, max_error=self.max_error, progress=self._hear)
        except ImportError as error:
            self._error = ValueError(f"The search is not part of this installation ({error}).")
        except _Stop:
            pass
        except Exception as error:
            self._error = error

    def _hear(self, done: float, total: float = 1, *_) -> None:
        """Pass progress on, or end the search."""
        if self._stopped.is_set():
            raise _Stop
        self._news.put(done / max(total, 1))


class _Stop(Exception):
    """The search is no longer wanted."""


@suggesting
def tuner(sample) -> TunerPanel:
    """Find the fastest method under an error. ``sample`` is from ``ml.load_sample`` or ``ml.capture``."""
    return TunerPanel(sample)
