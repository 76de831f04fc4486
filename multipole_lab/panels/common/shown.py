"""The figure on the page: plotly's own FigureWidget, with plotly.js sent and read once for all panels."""

from __future__ import annotations

import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets

# anywidget gives a widget two seconds to load its code and afterwards hears nothing from Python. The 5 MB of plotly.js,
# which FigureWidget sends once per figure, take longer than that on a busy or slow computer: the figure stays silent.
# Here the widget's own code is this page of text; plotly.js comes from a model of its own, with no limit of time. What
# Python sends until then is kept and sent to the figure when it is there.
_PAGE_CODE = """
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
export default () => {
  let figure;
  return {
    initialize({ model }) {
      const early = [];
      const hear = NEWS.map((name) => [`change:${name}`, () => early.push([name, model.get(name)])]);
      hear.forEach(([event, note]) => model.on(event, note));
      figure = plotly(model).then((library) => {
        hear.forEach(([event, note]) => model.off(event, note));
        const made = library.default();
        made.initialize({ model });
        early.forEach(([name, value]) => model.set(name, value));
        return made;
      });
      figure.catch((error) => console.error("plotly.js did not load:", error));
    },
    async render({ model, el }) { return (await figure).render({ model, el }); },
  };
};
"""


class Shown(go.FigureWidget):
    """A FigureWidget whose page code is small, and loads plotly.js from a model that all figures share."""

    _esm = _PAGE_CODE
    _source = traitlets.Instance(widgets.HTML).tag(sync=True, **widgets.widget_serialization)
    _kept: widgets.HTML | None = None

    @traitlets.default("_source")
    def _the_one(self) -> widgets.HTML:
        """The model of plotly.js: an HTML widget that is never displayed, the plainest that has a text."""
        if Shown._kept is None or Shown._kept.comm is None:  # none yet, or closed with all widgets
            Shown._kept = widgets.HTML(str(go.FigureWidget._esm))
        return Shown._kept
