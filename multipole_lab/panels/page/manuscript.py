"""A prompt and what is written after it: the words that a step reads are lit, and every side has its clock."""

from __future__ import annotations

from collections.abc import Sequence

import anywidget
import numpy as np
import traitlets
from jaxtyping import Bool

from ..tools.hearing import heard

_PAGE_CODE = """
function render({ model, el }) {
  el.classList.add("ml-manuscript");
  const prompt = Object.assign(document.createElement("div"), { className: "ml-prompt", tabIndex: 0 });
  const foot = Object.assign(document.createElement("div"), { className: "ml-story-foot" });
  const sides = Object.assign(document.createElement("div"), { className: "ml-sides" });
  prompt.setAttribute("role", "group");
  prompt.setAttribute("aria-label", "the prompt");
  prompt.dataset.lmSuppressShortcuts = "true";
  for (const [kind, words] of [["w2", "always read"], ["w3", "in a cluster that was opened"]]) {
    foot.append(Object.assign(document.createElement("span"), { className: kind, textContent: words }), "  ");
  }
  el.append(prompt, foot, sides);
  let words = [], lit = new Uint8Array(0), seen = false;
  const span = (word, i) => {
    const one = Object.assign(document.createElement("span"), { textContent: word });
    one.dataset.at = i;
    return one;
  };
  const light = () => {
    const view = model.get("lit");
    const now = view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(0);
    words.forEach((word, i) => now[i] === lit[i] || (word.className = now[i] ? "w" + now[i] : ""));
    lit = now;
    sides.querySelectorAll(".ml-own span").forEach((word, i) => {  // its own words stand behind the prompt
      const kind = now[words.length + i];
      word.classList.remove("w2", "w3");
      if (kind) word.classList.add("w" + kind);
    });
  };
  const write = () => {
    words = model.get("prompt").map(span);
    lit = new Uint8Array(0);
    prompt.replaceChildren(...words);
    seen = false;
    light();
    end();
  };
  const go_on = () => {
    sides.replaceChildren(...model.get("sides").map((side) => {
      const box = document.createElement("div"), text = document.createElement("p");
      if (side.own) text.className = "ml-own";
      text.append(...side.words.map(span));
      text.children[side.parted]?.classList.add("ml-parted");
      if (side.own) text.children[model.get("chosen")]?.classList.add("own");
      box.append(Object.assign(document.createElement("b"), { textContent: side.title }), text,
        Object.assign(document.createElement("small"), { textContent: side.clock }));
      return box;
    }));
    light();
  };
  const end = () => {  // a new prompt is first seen where it goes on
    if (seen || !prompt.clientHeight) return;
    prompt.scrollTop = prompt.scrollHeight;
    seen = true;
  };
  sides.addEventListener("click", (event) => {
    const at = Number(event.target.dataset?.at ?? NaN);
    if (!(at >= 0)) return;
    model.set("chosen", at);
    model.save_changes();
  });
  model.on("change:prompt", write);
  model.on("change:sides", go_on);
  model.on("change:chosen", go_on);
  model.on("change:lit", light);
  write();
  go_on();
  const sizes = new ResizeObserver(end);  // it has no height before it is on the page
  sizes.observe(prompt);
  return () => sizes.disconnect();
}
"""
_ALWAYS, _OPENED = 2, 3  # classes of a word in the page's style


class Manuscript(anywidget.AnyWidget):
    """A prompt, and beside each other what several sides write after it.

    Attributes
    ----------
    prompt : its tokens. lit : a class for each of them, and for the words of the side that is ``own``.
    sides : title, words, clock, ``parted`` (the word that is marked, -1 for none) and ``own`` of each.
    chosen : the word whose reading is lit; the page changes it by a click.
    """

    _esm = heard(_PAGE_CODE)
    prompt = traitlets.List(traitlets.Unicode()).tag(sync=True)
    lit = traitlets.Bytes().tag(sync=True)
    sides = traitlets.List(traitlets.Dict()).tag(sync=True)
    chosen = traitlets.Int(-1).tag(sync=True)

    def show(
        self,
        prompt: Sequence[str],
        sides: Sequence[dict],
        chosen: int,
        read: Bool[np.ndarray, " N"],
        opened: Bool[np.ndarray, " N"],
    ) -> None:
        """Bring the page to this text, in one message.

        Parameters
        ----------
        prompt, sides, chosen : see above. read : which tokens were read exactly. opened : which of them in clusters.
        """
        with self.hold_sync():
            if self.prompt != list(prompt):
                self.prompt = list(prompt)
            self.sides, self.chosen = list(sides), chosen
            self.lit = np.where(opened, _OPENED, np.where(read, _ALWAYS, 0)).astype(np.uint8).tobytes()
