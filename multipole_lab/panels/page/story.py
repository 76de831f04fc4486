"""The text itself, twice side by side: every word shaded by the attention that it gets; a click chooses a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anywidget
import numpy as np
import traitlets
from jaxtyping import Float, Int

from ..tools.hearing import heard

# A reader's keys stay in the text: JupyterLab takes no shortcut from an element with that attribute.
_PAGE_CODE = """
const bytes = (view) => view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(0);
function render({ model, el }) {
  el.classList.add("ml-story");
  el.tabIndex = 0;
  el.setAttribute("role", "group");
  el.dataset.lmSuppressShortcuts = "true";
  let columns = [], old = [], own = -1, sought = "";
  const write = () => {
    el.replaceChildren();
    const head = document.createElement("div");
    head.className = "ml-story-head";
    for (const title of model.get("titles")) {
      head.append(Object.assign(document.createElement("b"), { textContent: title }));
    }
    head.append(finder());
    const body = document.createElement("div");
    body.className = "ml-story-body";
    columns = model.get("titles").map(() => {
      const column = document.createElement("div");
      let lines = 0;  // a place for every paragraph: a word that turns bold then moves no other paragraph
      const words = model.get("words").map((word, i) => {
        const span = document.createElement("span");
        span.textContent = word;
        span.dataset.at = i;
        lines ||= column.appendChild(document.createElement("div"));
        lines.append(span);
        if (word.endsWith("\\n")) lines = 0;
        return span;
      });
      body.append(column);
      return words;
    });
    const foot = document.createElement("div");
    foot.className = "ml-story-foot";
    for (const [kind, words] of [["w2", "one by one"], ["w3", "in a cluster"], ["w5", "gained weight"],
        ["w7", "lost weight"]]) {
      foot.append(Object.assign(document.createElement("span"), { className: kind, textContent: words }), "  ");
    }
    el.append(head, body, foot);
    old = []; own = -1;
    shade();
  };
  const finder = () => {  // a search in the text, across tokens; Enter goes to the next place and looks from there
    const line = Object.assign(document.createElement("label"), { className: "ml-find", textContent: "find " });
    const input = Object.assign(document.createElement("input"), { type: "search", value: sought });
    const count = document.createElement("span");
    count.setAttribute("role", "status");
    line.append(input, count);
    input.addEventListener("input", () => { sought = input.value; mark(); });
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Enter") return;
      const places = found(sought), from = model.get("query");
      choose(event.shiftKey ? places.findLast((i) => i < from) ?? places.at(-1)
        : places.find((i) => i > from) ?? places[0]);
    });
    return line;
  };
  const mark = () => {
    const places = found(sought), at = places.indexOf(model.get("query")), count = el.querySelector(".ml-find span");
    el.querySelectorAll(".found").forEach((word) => word.classList.remove("found"));
    for (const i of places) columns.forEach((words) => words[i]?.classList.add("found"));
    count.textContent = !sought ? "" : at < 0 ? `${places.length} found` : `${at + 1} of ${places.length}`;
  };
  const found = (text) => {  // the tokens at which a text begins, capitals or not
    if (!text.trim()) return [];
    const words = model.get("words"), whole = words.join("").toLowerCase(), places = [];
    let i = 0, end = words[0]?.length ?? 0;
    for (let at = whole.indexOf(text.toLowerCase()); at >= 0; at = whole.indexOf(text.toLowerCase(), at + 1)) {
      const first = at + (text.length - text.trimStart().length);
      while (first >= end) end += words[++i].length;
      if (places.at(-1) !== i) places.push(i);
    }
    return places;
  };
  const shade = () => {
    const looks = model.get("looks").map(bytes);  // of every column: two bytes a word, the class and the strength
    looks.forEach((look, c) => {
      const before = old[c] ?? new Uint8Array(0), words = columns[c];
      for (let i = 0; i < words.length && 2 * i + 1 < look.length; i++) {
        if (before[2 * i] === look[2 * i] && before[2 * i + 1] === look[2 * i + 1]) continue;
        words[i].className = look[2 * i] ? "w" + look[2 * i] : "";
        words[i].style.setProperty("--a", look[2 * i + 1] / 255);
      }
    });
    old = looks;
    const at = model.get("query");
    for (const words of columns) {
      words[own]?.classList.remove("own");
      words[at]?.classList.add("own");
    }
    own = at;
    mark();
    const word = columns[0]?.[at];
    if (!word) return;
    el.setAttribute("aria-label", `the text; at ${word.textContent.trim()}, word ${at}; arrow keys choose another`);
    requestAnimationFrame(bring);  // where it asks for places, all words have to have theirs
  };
  const bring = () => {  // the word that looks into the part that is seen
    const word = columns[0]?.[own], up = word?.offsetTop - el.scrollTop;
    if (el.clientHeight && (up < 40 || up > el.clientHeight - 70)) el.scrollTop = word.offsetTop - el.clientHeight / 2;
  };
  const choose = (at) => {
    if (!(at >= 0 && at < columns[0].length)) return;
    model.set("query", at);
    model.save_changes();
    shade();
  };
  const line = (step) => {  // the word above or below
    const words = columns[0], from = words[model.get("query")];
    let best = -1;
    for (let i = model.get("query") + step; i >= 0 && i < words.length; i += step) {
      const down = step * (words[i].offsetTop - from.offsetTop);
      if (down > 40) break;
      if (down > 4 && (best < 0 || Math.abs(words[i].offsetLeft - from.offsetLeft) <
          Math.abs(words[best].offsetLeft - from.offsetLeft))) best = i;
    }
    return best;
  };
  el.addEventListener("click", (event) => choose(Number(event.target.dataset?.at ?? NaN)));
  el.addEventListener("keydown", (event) => {
    const at = model.get("query");
    const goal = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, ArrowUp: () => line(-1),
      ArrowDown: () => line(1) };
    if (!(event.key in goal)) return;
    event.preventDefault();
    event.stopPropagation();
    choose(goal[event.key]());
  });
  el.addEventListener("mouseover", (event) => {  // the members of a word's cluster, in their sentences
    const at = Number(event.target.dataset?.at ?? NaN), numbers = model.get("clusters");
    const number = numbers ? new Int16Array(numbers.buffer.slice(numbers.byteOffset)) : [];
    el.querySelectorAll(".same").forEach((word) => word.classList.remove("same"));
    if (!(number[at] >= 0)) return;
    number.forEach((own, i) => own === number[at] && columns[1]?.[i]?.classList.add("same"));
    event.target.title = model.get("names")[number[at]] ?? "";
  });
  model.on("change:words", write);
  model.on("change:looks", shade);
  model.on("change:query", shade);
  write();
  const sizes = new ResizeObserver(bring);  // it has no height before it is on the page
  sizes.observe(el);
  return () => sizes.disconnect();
}
"""
# Classes of a word in the page's style; 2 more where it gained weight, 4 more where it lost some.
_UNSEEN, _ITSELF, _CLUSTER = 1, 2, 3
FAINTEST = 1e-4  # the weight from which on a word is shaded


class Story(anywidget.AnyWidget):
    """The words of a text in two columns, exact attention and an approximation.

    Attributes
    ----------
    words : the tokens. titles : of the columns.
    query : the position whose looks are shown; the page changes it by a click or the arrow keys.
    looks : a column's classes and strengths, two bytes a word. clusters : int16 numbers. names : of the clusters.
    """

    _esm = heard(_PAGE_CODE)
    words = traitlets.List(traitlets.Unicode()).tag(sync=True)
    titles = traitlets.List(traitlets.Unicode(), ["exact attention", "approximation"]).tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    looks = traitlets.List(traitlets.Bytes()).tag(sync=True)
    clusters = traitlets.Bytes(allow_none=True).tag(sync=True)
    names = traitlets.Dict().tag(sync=True)

    def show(
        self,
        words: Sequence[str],
        query: int,
        exact: Float[np.ndarray, " N"],
        approximate: Float[np.ndarray, " N"],
        cluster: Int[np.ndarray, " N"],
        moved: Int[np.ndarray, " N"],
        names: Mapping[int, str],
    ) -> None:
        """Bring the page to what a query looks at, in one message; the arguments are those of ``figures.lens``."""
        unseen = cluster < -1
        seen_as = np.where(cluster == -1, _ITSELF, _CLUSTER) + 2 * (moved > 0) + 4 * (moved < 0)
        with self.hold_sync():
            if self.words != list(words):
                self.words = list(words)
            self.looks = [
                _packed(np.where(unseen, _UNSEEN, _ITSELF), exact),
                _packed(np.where(unseen, _UNSEEN, seen_as), approximate),
            ]
            self.clusters = cluster.astype(np.int16).tobytes()
            self.names = {str(number): said for number, said in names.items()}
            self.query = query


def _packed(kind: Int[np.ndarray, " N"], weight: Float[np.ndarray, " N"]) -> bytes:
    """The class of every word, and how strongly it is shaded: evenly in the logarithm of its weight."""
    strength = np.clip(1 - np.log10(np.maximum(weight, FAINTEST)) / np.log10(FAINTEST), 0, 1)
    return np.stack([kind, np.rint(255 * strength)], 1).astype(np.uint8).tobytes()
