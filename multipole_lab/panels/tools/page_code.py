"""The page code of panels: files to save, links, sentences behind labels, names for screen readers, sizes."""

from .hearing import heard

# A function for each subject, which `render` joins below; `own(selector)` gives parts of the panel, not of one in it.
_TAKE_AWAY = """
function take_away(model, own) {
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
    const plot = own(".js-plotly-plot")[0];
    if (!plot) return;
    plot._context.toImageButtonOptions = { format, filename: name, scale: 2 };
    plot.querySelector(".modebar-btn[data-title^='Download plot']")?.click();
  };
  const save = (name, mime, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: mime }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  // A link is this page's address with the panel's state in it, and without the key to the server.
  const part = "panel." + model.get("label").replace(/ panel$/, "");
  const link = (state) => {
    const address = new URL(window.location.href);
    for (const name of [...address.searchParams.keys()]) {
      if (name === "token" || name.startsWith("panel.")) address.searchParams.delete(name);
    }
    address.searchParams.set(part, state);
    copy(address.href);
  };
  const told = ({ kind, name, mime, text }) => {
    if (kind === "copy") copy(text);
    if (kind === "link") link(text);
    if (kind === "draw") draw(name, mime);
    if (kind === "save") save(name, mime, text);
  };
  model.on("msg:custom", told);
  // The page may have changed its address since it was loaded; the first panel of that name takes the state.
  const first = performance.getEntriesByType("navigation")[0]?.name ?? window.location.href;
  const state = new URL(first).searchParams.get(part);
  const taken = (window.multipole_lab_taken ??= new Set());
  if (state && !taken.has(part)) model.send({ kind: "state", text: state });
  taken.add(part);
  return () => model.off("msg:custom", told);
}
"""

_EXPLAIN = """
function explain(model, panel, own) {  // an i behind every label, whose sentence is shown when it is asked for
  const note = document.createElement("div");
  note.className = "ml-note";
  note.hidden = true;
  const hide = () => { note.hidden = true; };
  const show = (event) => {
    const mark = event.currentTarget, place = mark.getBoundingClientRect(), frame = panel.getBoundingClientRect();
    note.textContent = mark.dataset.words;
    panel.append(note);
    note.hidden = false;
    const left = Math.min(place.left - frame.left, frame.width - note.offsetWidth - 4);
    note.style.left = Math.max(0, left) + "px";
    note.style.top = place.bottom - frame.top + 3 + "px";
  };
  return () => {
    const about = model.get("about");
    for (const control of own(".widget-inline-hbox, .widget-toggle-buttons")) {
      const label = control.querySelector(".widget-label"), name = label?.textContent;
      if (!(name in about) || control.querySelector(".ml-i")) continue;
      const mark = document.createElement("button");
      Object.assign(mark, { type: "button", className: "ml-i", textContent: "i" });
      Object.assign(mark.dataset, { words: about[name], lmSuppressShortcuts: "true" });
      mark.setAttribute("aria-label", `${name}, explained: ${about[name]}`);
      for (const event of ["focus", "mouseenter", "click"]) mark.addEventListener(event, show);
      for (const event of ["blur", "mouseleave"]) mark.addEventListener(event, hide);
      mark.addEventListener("keydown", (event) => event.key === "Escape" && hide());
      label.after(mark);
    }
  };
}
"""

_NAMES = """
function name_parts(model, panel, own) {
  // A slider of selections tells a screen reader its index; readers want the value and the slider's name.
  panel.setAttribute("role", "group");
  panel.setAttribute("aria-label", model.get("label"));
  own(".js-plotly-plot").forEach((plot, i) => {
    plot.setAttribute("role", "figure");
    plot.setAttribute("aria-label", i ? "the picture that is held" : model.get("picture"));
  });
  const values = model.get("values");
  for (const control of own(".widget-inline-hbox, .widget-toggle-buttons")) {
    const words = control.querySelector(".widget-label")?.textContent;
    if (!words || !(words in values)) continue;
    control.querySelector("[role=slider]")?.setAttribute("aria-label", words);
    control.querySelector("[role=slider]")?.setAttribute("aria-valuetext", values[words]);
    control.querySelector(".widget-readout")?.setAttribute("aria-label", words + ", value");
  }
  // Keys on a slider are the reader's: "a" would insert a cell, and "d d" delete the one with the panel.
  for (const slider of own("[role=slider]")) slider.dataset.lmSuppressShortcuts = "true";
  // A button is called by its word, without the picture before it.
  for (const button of own(".ml-buttons button, .ml-fold")) {
    button.setAttribute("aria-label", button.textContent.trim());
  }
  for (const button of own(".widget-toggle-button, .widget-toggle-buttons button")) {
    const fold = button.classList.contains("ml-fold");
    button.setAttribute(fold ? "aria-expanded" : "aria-pressed", button.classList.contains("mod-active"));
    if (fold) button.removeAttribute("aria-pressed");
  }
}
"""

_FIT = """
function around(panel, place) {  // pixels of a panel above and below its figure
  let rest = place.getBoundingClientRect().top - panel.getBoundingClientRect().top + panel.scrollTop;
  for (let part = place.parentElement; part !== panel; part = part.parentElement) {
    for (let next = part.nextElementSibling; next; next = next.nextElementSibling) rest += next.offsetHeight;
  }
  return rest;
}
function fit(model, panel, own) {
  // Plotly measures its width when made, and hears of the window but not of a side bar or of a cell that JupyterLab had
  // set aside: whenever the panel's size or visibility changes, have it measure again.
  for (const plot of own(".js-plotly-plot")) {
    const place = plot.closest(".ml-figure") ?? panel, width = place.clientWidth;
    if (!width) continue;
    let height = model.get("taller") ? Math.min(width + model.get("taller"), 800) : 0;
    const large = panel.classList.contains("ml-large");
    if (document.fullscreenElement === panel) {  // all of the screen that the rest leaves
      height = Math.max(360, window.innerHeight - around(panel, place) - 40);
    } else if (large) {  // larger type in a larger picture; squares that fill the width grow no higher
      height = Math.round(height ? 1.1 * height : 1.3 * Number(plot.dataset.own ?? plot.clientHeight));
    } else if (!height && plot.dataset.own) {
      height = Number(plot.dataset.own);
      delete plot.dataset.own;
    }
    if (height && Math.abs(height - plot.clientHeight) > 8) {
      if (large || document.fullscreenElement === panel) plot.dataset.own ??= plot.clientHeight;
      plot.style.height = height + "px";
      plot._responsiveChartHandler?.();
      continue;
    }
    const drawn = plot.querySelector(".svg-container")?.clientWidth;
    if (drawn && Math.abs(width - drawn) > 8) plot._responsiveChartHandler?.();
  }
}
"""

_RENDER = """
function render({ model, el }) {
  el.style.display = "none";
  const panel = () => el.closest(".ml-panel");
  const own = (selector) => [...(panel()?.querySelectorAll(selector) ?? [])].filter(
    (part) => part.closest(".ml-panel") === panel());
  let marks;
  const name = () => {
    if (!panel()) return;
    name_parts(model, panel(), own);
    marks ??= explain(model, panel(), own);
    marks();
  };
  const fitted = () => panel() && fit(model, panel(), own);
  const soon = () => { requestAnimationFrame(fitted); setTimeout(fitted, 250); };
  const sizes = new ResizeObserver(soon), views = new IntersectionObserver(soon);
  const pressed = (event) => {
    for (const wait of [50, 1000]) setTimeout(() => { name(); watch(); }, wait);  // when the button knows
    const button = event.target.closest?.(".ml-present");
    if (button?.closest(".ml-panel") !== panel()) return;  // the page asks for the whole screen, which no kernel may
    document.fullscreenElement ? document.exitFullscreen() : panel().requestFullscreen().catch(console.warn);
  };
  const presented = () => {
    const all = document.fullscreenElement === panel();
    if (all !== panel()?.classList.contains("ml-presented")) model.send({ kind: "present", on: all });
    panel()?.classList.toggle("ml-presented", all);
    soon();
  };
  const watch = () => {
    if (!panel()) return;
    sizes.observe(panel());
    views.observe(panel());
    own(".ml-figure").forEach((place) => sizes.observe(place));
    panel().addEventListener("click", pressed);  // once, however often it is asked for
  };
  const shown = () => {  // the picture has come before this number; two frames later it is seen
    const drawn = model.get("drawn");
    requestAnimationFrame(() => requestAnimationFrame(() => model.send({ kind: "shown", drawn })));
  };
  const heard = { values: name, picture: name, about: name, drawn: shown };
  Object.entries(heard).forEach(([trait, call]) => model.on("change:" + trait, call));
  document.addEventListener("fullscreenchange", presented);
  const no_more = take_away(model, own);
  // Parts come when they come, on a busy computer after seconds.
  const waits = [0, 300, 1000, 3000, 8000, 20000, 60000];
  const timers = waits.map((wait) => setTimeout(() => { name(); watch(); }, wait));
  return () => {
    timers.forEach(clearTimeout);
    no_more();
    sizes.disconnect();
    views.disconnect();
    document.removeEventListener("fullscreenchange", presented);
    Object.entries(heard).forEach(([trait, call]) => model.off("change:" + trait, call));
  };
}
"""

PAGE_CODE = heard(_TAKE_AWAY + _EXPLAIN + _NAMES + _FIT + _RENDER)
