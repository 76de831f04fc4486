"""The figure on the page: plotly's own FigureWidget, with plotly.js sent and read once for all panels."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from _plotly_utils.utils import to_typed_array_spec
from plotly.basedatatypes import Undefined
from plotly.serializers import custom_serializers

from ..tools.hearing import HEARING

# plotly's FigureWidget sends the 5 MB of plotly.js once per figure, as the widget's code, for which anywidget waits two
# seconds. Here the widget's own code is this page of text; plotly.js comes from a model of its own, with no limit of
# time. What Python sends until then is kept and sent to the figure when it is there.
_PAGE_CODE = (
    HEARING
    + """
const NEWS = ["addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate",
  "removeLayoutProps", "removeTraceProps"].map((kind) => "_py2js_" + kind);
const load = async (model) => {
  const source = await model.widget_manager.get_model(model.get("_source").slice("IPY_MODEL_".length));
  await new Promise((go) => window.requestIdleCallback ? requestIdleCallback(go, { timeout: 3000 }) : setTimeout(go));
  const address = URL.createObjectURL(new Blob([source.get("value")], { type: "text/javascript" }));
  return import(address).finally(() => URL.revokeObjectURL(address));
};
const plotly = (model) => {  // one for the page: every figure's code is a module of its own
  window.multipole_lab_plotly ??= load(model);
  window.multipole_lab_plotly.catch(() => { delete window.multipole_lab_plotly; });
  return window.multipole_lab_plotly;
};
// What a view does with a message: it draws, and then asks for the model's traces, to compare all of them with what it
// has drawn and tell Python. That takes half as long as to draw, and Python asks the page nothing: the view ends there.
const ENOUGH = {};
const drawing = (call, at) => (...news) => {
  at.draws = true;
  try {
    return call(...news);
  } catch (end) {
    if (end !== ENOUGH) throw end;
  } finally {
    at.draws = false;
  }
};
// Thousands of dots are drawn by WebGL, where there is any: as elements of the page they take three times as long. A
// page has room for sixteen such drawings, of which a figure takes two; the next ones would take it from the first.
const webgl = () => (window.multipole_lab_webgl ??= (() => {
  const drawing = document.createElement("canvas").getContext("webgl");
  drawing?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(drawing);
})());
// It draws over all elements of the page, so the marks that belong on top of the dots are drawn by it as well.
const quicker = (traces) => {
  const marks = (trace) => trace.type === "scatter" && trace.mode === "markers";
  const first = traces.findIndex((trace) => marks(trace) && (trace.x?.length ?? trace.x?.shape?.[0]) > 1000);
  if (first < 0 || !webgl() || document.querySelectorAll(".gl-canvas").length >= 18) return traces;
  return traces.map((trace, i) => i >= first && marks(trace) && trace.xaxis === traces[first].xaxis
    ? { ...trace, type: "scattergl" } : trace);
};
export default () => {
  let figure, heard, news;
  const at = { draws: false };
  return {
    initialize({ model }) {
      news = model;
      const early = [];
      const hear = NEWS.map((name) => [`change:${name}`, () => early.push([name, model.get(name)])]);
      hear.forEach(([event, note]) => model.on(event, note));
      figure = Promise.all([plotly(model), hearing(model)]).then(([library]) => {
        hear.forEach(([event, note]) => model.off(event, note));
        const made = library.default();
        // A view that is gone would go on hearing, fail, and keep the news from the views that are there.
        const noting = {
          ...model,
          get: (name) => {
            if (at.draws && name === "_widget_data") throw ENOUGH;
            const value = model.get(name);
            if (heard && name === "_widget_data") return quicker(value);
            if (value && name === "_py2js_addTraces") return { ...value, trace_data: quicker(value.trace_data) };
            return value;
          },
          on: (event, call) => {
            const does = heard && event === "change:_py2js_update" ? drawing(call, at) : call;
            heard?.push([event, does]);
            model.on(event, does);
          },
        };
        made.initialize({ model: noting });
        early.forEach(([name, value]) => model.set(name, value));
        return made;
      });
      figure.catch((error) => console.error("plotly.js did not load:", error));
    },
    async render({ model, el }) {
      const made = await figure;
      heard = [];
      const own = heard, remove = made.render({ model, el });
      heard = undefined;
      return () => { own.forEach(([event, call]) => news.off(event, call)); remove?.(); };
    },
  };
};
"""
)


class Shown(go.FigureWidget):
    """A FigureWidget whose page code is small, loads plotly.js from a model that all figures share, and loses nothing.

    What plotly's own loses: a message that changes some traces puts a word for "as it was" into the model of the page
    for the others, which views made later take for data; and a page that is loaded again is given the first figure.

    Attributes
    ----------
    wanted : the last figure that was to be shown, as ``parts_of`` gives it; the widget also has what a reader did.
    """

    _esm = _PAGE_CODE
    _source = traitlets.Instance(widgets.HTML).tag(sync=True, **widgets.widget_serialization)
    _kept: widgets.HTML | None = None
    wanted: dict | None = None

    @traitlets.default("_source")
    def _the_one(self) -> widgets.HTML:
        """The model of plotly.js: an HTML widget that is never displayed, the plainest that has a text."""
        if Shown._kept is None or Shown._kept.comm is None:  # none yet, or closed with all widgets
            Shown._kept = widgets.HTML(str(go.FigureWidget._esm))
        return Shown._kept

    def __init__(self, figure: go.Figure) -> None:
        super().__init__(figure)
        self.wanted = parts_of(figure)

    def get_state(self, key: object = None, drop_defaults: bool = False) -> dict:
        """The state for a page; the whole of it is the present figure, with no message under way."""
        state = super().get_state(key, drop_defaults)
        if key is None and self.wanted is not None:  # else it is still being made
            state["_widget_data"] = custom_serializers["to_json"](packed(self._data), self)
            state["_widget_layout"] = custom_serializers["to_json"](self._layout, self)
            state |= {name: None for name in state if name.startswith(("_py2js_", "_js2py_"))}
        return state

    def put_back(self, layout: dict) -> None:
        """Set properties of the layout, by path, and send them even where the widget believes that they are so.

        A page reports the range of a zoom, and not that the axis no longer finds its range itself.
        """
        for path, value in layout.items():
            self._set_in(self._layout, path, value)
        self._send_relayout_msg(layout)

    def change(self, traces: dict[int, dict], layout: dict) -> None:
        """Set properties of traces and of the layout, by path, in one message.

        They come from a figure, which has checked them: only what is an object of its own, as an annotation is, passes
        plotly's checks again.
        """
        with self.batch_update():
            self._batch_trace_edits.update({i: _own(changed) for i, changed in traces.items()})
            for path, value in layout.items():
                if isinstance(value, list | tuple) and any(isinstance(part, dict) for part in value):
                    self.layout[path] = value
                else:
                    self._batch_layout_edits[path] = _own(value)

    def _send_update_msg(
        self,
        restyle_data: dict,
        relayout_data: dict,
        trace_indexes: object = None,
        source_view_id: str | None = None,
    ) -> None:
        """Traces that keep a property are sent what they have."""
        traces = self._normalize_trace_indexes(trace_indexes)
        restyle_data = {path: self._complete(path, values, traces) for path, values in restyle_data.items()}
        super()._send_update_msg(restyle_data, relayout_data, traces, source_view_id)

    def _complete(self, path: str, values: object, traces: list[int]) -> object:
        """A property's values, one for each trace, without a gap."""
        if not isinstance(values, list):
            return values
        return [
            packed(self._get_in(self._data[trace], path) if value is Undefined else value, path)
            for trace, value in zip(traces, values, strict=True)
        ]

    @staticmethod
    def _get_in(trace: dict, path: str) -> object:
        """A property of a trace by its path; None, which takes a property away, where it has none."""
        for name in path.split("."):
            trace = trace.get(name) if isinstance(trace, dict) else None
        return trace


def packed(part: Any, name: str = "") -> Any:
    """Tables of numbers as plotly.js takes them in one piece; ipywidgets looks at every number of a list.

    In half the bytes, but for numbers that stand in a picture as they are.
    """
    if isinstance(part, dict):
        return {own: packed(value, own) for own, value in part.items()}
    if isinstance(part, list) and any(isinstance(value, dict) for value in part):
        return [packed(value) for value in part]
    if not isinstance(part, np.ndarray) or part.ndim == 1:
        return part
    return to_typed_array_spec(part.astype(np.float32) if part.dtype == float and name != "text" else part)


def parts_of(figure: go.Figure) -> dict:
    """A figure's traces and layout as dicts of their own, with arrays and the template as they are."""
    return {"data": [_own(trace) for trace in figure._data], "layout": _own(figure._layout)}


def _own(part: Any) -> Any:
    """A copy that shares no dict or list with a figure, whose template is never changed."""
    if isinstance(part, dict):
        return {name: value if name == "template" else _own(value) for name, value in part.items()}
    if isinstance(part, list | tuple) and any(isinstance(value, dict) for value in part):
        return [_own(value) for value in part]
    return part
