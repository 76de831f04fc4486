"""The small piece of page code that panels need: saving a file, and names for screen readers."""

from __future__ import annotations

import anywidget
import traitlets

_PAGE_CODE = """
function render({ model, el }) {
  el.style.display = "none";
  const copy = (text) => {
    const old_way = () => {  // where the page may not write to the clipboard itself
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    };
    navigator.clipboard ? navigator.clipboard.writeText(text).catch(old_way) : old_way();
  };
  const draw = (name, format) => {  // plotly's own button does it, in the format that it is told
    const plot = own(el.closest(".ml-panel"));
    if (!plot) return;
    plot._context.toImageButtonOptions = { format, filename: name, scale: 2 };
    plot.querySelector(".modebar-btn[data-title^='Download plot']")?.click();
  };
  model.on("msg:custom", ({ kind, name, mime, text }) => {
    if (kind === "copy") return copy(text);
    if (kind === "draw") return draw(name, mime);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: mime }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  function own(panel) {  // the figure of a panel, and not that of a panel inside it
    const plot = panel?.querySelector(".js-plotly-plot");
    return plot?.closest(".ml-panel") === panel ? plot : null;
  }
  // A slider of selections tells a screen reader its index; readers want the value and the slider's name.
  const name_parts = () => {
    const panel = el.closest(".ml-panel");
    if (!panel) return;
    panel.setAttribute("role", "group");
    panel.setAttribute("aria-label", model.get("label"));
    const picture = own(panel);
    picture?.setAttribute("role", "figure");
    picture?.setAttribute("aria-label", model.get("picture"));
    const values = model.get("values");
    for (const control of panel.querySelectorAll(".widget-inline-hbox")) {
      const words = control.querySelector(".widget-label")?.textContent;
      if (!words || !(words in values)) continue;
      control.querySelector("[role=slider]")?.setAttribute("aria-label", words);
      control.querySelector("[role=slider]")?.setAttribute("aria-valuetext", values[words]);
      control.querySelector(".widget-readout")?.setAttribute("aria-label", words + ", value");
    }
    // Keys on a slider are the reader's: "a" would insert a cell, and "d d" delete the one with the panel.
    for (const slider of panel.querySelectorAll("[role=slider]")) slider.dataset.lmSuppressShortcuts = "true";
    for (const button of panel.querySelectorAll(".widget-toggle-button, .widget-toggle-buttons button")) {
      button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
    }
  };
  const pressed = () => setTimeout(name_parts, 50);  // when the button knows
  model.on("change:values", name_parts);
  model.on("change:picture", name_parts);
  // Plotly measures its width when made, and hears of the window but not of a side bar or of a cell that
  // JupyterLab had set aside: whenever the panel's size or visibility changes, have it measure again.
  const fit = () => {
    const panel = el.closest(".ml-panel");
    const plot = own(panel);
    if (plot && panel.clientWidth && model.get("taller")) {
      const height = Math.min(panel.clientWidth + model.get("taller"), 800);
      if (Math.abs(height - plot.clientHeight) > 8) {
        plot.style.height = height + "px";
        return plot._responsiveChartHandler?.();
      }
    }
    const drawn = plot?.querySelector(".svg-container")?.clientWidth;
    const off = drawn && panel.clientWidth ? Math.abs(panel.clientWidth - drawn) : 0;
    if (off > 8) plot._responsiveChartHandler?.();
  };
  const soon = () => { requestAnimationFrame(fit); setTimeout(fit, 250); };
  const sizes = new ResizeObserver(soon), views = new IntersectionObserver(soon);
  const watch = () => {
    const panel = el.closest(".ml-panel");
    if (!panel) return;
    sizes.observe(panel);
    views.observe(panel);
    panel.addEventListener("click", pressed);  // once, however often it is asked for
  };
  const timers = [0, 300, 1000, 3000].map((wait) => setTimeout(() => { name_parts(); watch(); }, wait));
  return () => { timers.forEach(clearTimeout); sizes.disconnect(); views.disconnect(); };
}
export default { render };
"""


class Porter(anywidget.AnyWidget):
    """An invisible widget: saves files from the browser, offline, and labels the panel that it stands in.

    Attributes
    ----------
    label : the panel's name for screen readers.
    picture : the figure in words, for screen readers.
    values : what each control says at present, by its description.
    taller : pixels by which the figure is higher than the panel is wide, 800 in all at most; 0 leaves its own height.
    """

    _esm = _PAGE_CODE
    label = traitlets.Unicode().tag(sync=True)
    picture = traitlets.Unicode().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    taller = traitlets.Int().tag(sync=True)

    def save(self, name: str, mime: str, text: str) -> None:
        """Have the browser download ``text`` as a file called ``name``."""
        self.send({"kind": "save", "name": name, "mime": mime, "text": text})

    def copy(self, text: str) -> None:
        """Put ``text`` on the browser's clipboard."""
        self.send({"kind": "copy", "text": text})

    def draw(self, name: str, kind: str) -> None:
        """Have the browser download the panel's picture, as it is seen, as ``name.kind``; "png" or "svg"."""
        self.send({"kind": "draw", "name": name, "mime": kind})
