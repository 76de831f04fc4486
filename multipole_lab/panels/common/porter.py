"""The small piece of page code that panels need: saving a file, names for screen readers, what the page has to say."""

from __future__ import annotations

import json
from collections.abc import Callable

import anywidget
import traitlets

from ..tools.page_code import PAGE_CODE


class Porter(anywidget.AnyWidget):
    """An invisible widget: saves files from the browser, offline, and labels and explains the panel that it stands in.

    Parameters
    ----------
    hear : called with what the page says by itself, a word and a value: "shown" and the number of a picture that can be
        seen now; "present" and whether the panel fills the screen; "state" and values by name, from a link.

    Attributes
    ----------
    label : the panel's name for screen readers.
    picture : the figure in words, for screen readers.
    values : what each control says at present, by its description. about : a sentence on each.
    taller : pixels by which the figure is higher than it is wide, 800 in all at most; 0 leaves its own height.
    drawn : the number of the picture that was sent; the page answers when it is shown.
    """

    _esm = PAGE_CODE
    label = traitlets.Unicode().tag(sync=True)
    picture = traitlets.Unicode().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)
    taller = traitlets.Int().tag(sync=True)
    drawn = traitlets.Int().tag(sync=True)

    def __init__(self, label: str, hear: Callable[[str, object], None] | None = None) -> None:
        super().__init__(label=label)
        self._hear = hear
        self.on_msg(self._told)

    def save(self, name: str, mime: str, text: str) -> None:
        """Have the browser download ``text`` as a file called ``name``."""
        self.send({"kind": "save", "name": name, "mime": mime, "text": text})

    def copy(self, text: str) -> None:
        """Put ``text`` on the browser's clipboard."""
        self.send({"kind": "copy", "text": text})

    def link(self, state: dict) -> None:
        """Put the page's address on the clipboard, with this state of the panel in it."""
        self.send({"kind": "link", "text": json.dumps(state, separators=(",", ":"))})

    def draw(self, name: str, kind: str) -> None:
        """Have the browser download the panel's picture, as it is seen, as ``name.kind``; "png" or "svg"."""
        self.send({"kind": "draw", "name": name, "mime": kind})

    def _told(self, _widget, content: dict, _buffers) -> None:
        """Pass on what the page says; a link that is no state is passed over, for anybody may write one."""
        kind = content.get("kind")
        if self._hear is None or kind not in ("shown", "present", "state"):
            return
        value = content.get({"shown": "drawn", "present": "on", "state": "text"}[kind])
        if kind == "state":
            try:
                value = json.loads(value)
            except (TypeError, ValueError):
                return
            if not isinstance(value, dict):
                return
        self._hear(kind, value)
