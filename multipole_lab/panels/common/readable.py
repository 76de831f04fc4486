"""What can be had of a panel without its page: figure, numbers, line of code, words."""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from .export import exported
from .leaving import leave_picture
from .words import plain


class Readable(widgets.VBox):
    """A panel as it is read by code and by readers without a front end; ``Panel`` draws it."""

    def figure(self) -> go.Figure:
        """Return a static copy of the figure in its present state, once all work under way is done."""
        self._flush()
        return go.Figure(self._dressed())

    def table(self) -> dict[str, list]:
        """Return the numbers behind the figure, as columns by name."""
        self._flush()
        return {name: np.asarray(column).tolist() for name, column in self._work.picture.table.items()}

    @property
    def code(self) -> str:
        """The line that makes this panel again, in its present state, where the sample is called ``sample``."""
        moved = ", ".join(f"{name}={value!r}" for name, value in self._changed().items())
        return f"ml.panels.{self._call}" + (f".at({moved})" if moved else "")

    def _changed(self) -> dict:
        """The values that are not the first ones, by name."""
        return {name: value for name, value in self.state().items() if value != self._defaults[name]}

    @property
    def _call(self) -> str:
        """The call that makes the panel."""
        return f"{self.name}()"

    def export(self, kind: str) -> tuple[str, str, str]:
        """Return (file name, media type, text) of the panel's result as "csv", "json" or "html"."""
        return exported(self, kind)

    @property
    def message(self) -> str:
        """The error shown in the panel in plain text, or an empty string."""
        return plain(self._message.value)

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
        return plain(self._work.picture.figure.layout.title.text or self.name)
