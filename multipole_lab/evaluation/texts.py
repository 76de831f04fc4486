"""Texts to read: the lab's own, the Python documentation that comes with Python, and any file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path

READING, TOPICS = "reading", "python-topics"


def read_text(name: str | Path) -> str:
    """A text by name.

    Parameters
    ----------
    name : ``"reading"`` (the lab's own story), ``"python-topics"`` (``pydoc_data.topics``, half a megabyte of
        documentation from the user's own Python), or the path of a text file in UTF-8.

    Raises
    ------
    ValueError : a missing or empty file, a folder, or bytes that are no UTF-8; the file is named.
    """
    if str(name) == READING:
        text = (importlib.resources.files("multipole_lab.data") / "reading.txt").read_text(encoding="utf-8")
    elif str(name) == TOPICS:
        text = _topics()
    else:
        path = Path(name).expanduser()
        if path.is_dir():
            raise ValueError(f"{path} is a folder; a text file is needed")
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist; give a text file, {READING!r} or {TOPICS!r}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise ValueError(f"{name} is empty; there is nothing to read")
    return text


def token_ids(tokenizer: Callable, text: str, at_most: int | None = None, special: bool = True) -> list[int]:
    """The token ids of a text, or its first ones; ``special`` adds what the tokenizer adds by default."""
    cut = {} if at_most is None else {"truncation": True, "max_length": at_most}
    return list(tokenizer(text, add_special_tokens=special, verbose=False, **cut)["input_ids"])


def _topics() -> str:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this Python has no pydoc_data.topics; give a text file") from None
    return "\n\n".join(topics[name] for name in sorted(topics))
