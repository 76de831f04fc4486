"""What a submission may cost the grader, asked before it is read, and its texts made fit to be shown."""

from __future__ import annotations

import unicodedata

LARGEST = 10 << 20  # bytes of a file; the released notebooks have some fifty thousand
MEMORY = 60 << 20  # bytes that its values take, about: three bytes of JSON, an empty list, take 64
DEEPEST = 64  # lists and objects inside each other; pictures of plotly have some twenty
CODE = 300_000  # characters of all code cells
CELL = 100_000  # characters of one code cell: its syntax tree takes hundreds of bytes for each
SHOWN = 50_000  # characters of a text that are shown: a written answer has some two thousand

_COST = {b",": 40, b'"': 35, b"[": 64, b"{": 240}
_BRACKETS = b"[]{}"
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))
# Directions of writing, by which the text behind a name looks like the name.
_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def too_large(data: bytes) -> str:
    """Why a file of JSON is not read, or an empty string; costs no more memory than the file itself."""
    if len(data) > LARGEST:
        return f"the file has {len(data) / 1e6:.0f} MB; at most {LARGEST >> 20} MB are read"
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') * _COST[b'"'] > MEMORY:
        return "the file holds more texts than can be read"
    outside = b"".join(bare.split(b'"')[::2])
    cost = bare.count(b'"') * _COST[b'"'] + sum(
        outside.count(mark) * _COST[mark] for mark in (b",", b"[", b"{")
    )
    if cost > MEMORY:
        return "the file holds more numbers, lists and objects than can be read"
    depth = 0
    for bracket in outside.translate(None, _OTHERS):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST:
            return f"the file has lists or objects nested more than {DEEPEST} deep"
    return ""


def shown(text: str) -> str:
    """The text as every page, table and terminal takes it.

    Halves of characters, control characters and turns of the direction of writing are spelled out (``\\ud800``); what
    goes beyond SHOWN characters is cut, and it says so.
    """
    text = text.replace("\r\n", "\n")
    if len(text) > SHOWN:
        text = f"{text[:SHOWN]} ... (cut here: there are {len(text):,} characters)"
    return "".join(_spelled(c) if _is_odd(c) else c for c in text) if any(map(_is_odd, text)) else text


def all_shown(value: object) -> object:
    """The same for every text in lists and dictionaries."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        return [all_shown(item) for item in value]
    if isinstance(value, dict):
        return {shown(str(key)): all_shown(item) for key, item in value.items()}
    return value


def _is_odd(character: str) -> bool:
    number = ord(character)
    if 32 <= number < 127 or character in "\n\t":
        return False
    return number in _TURNS or unicodedata.category(character) in ("Cc", "Cs")


def _spelled(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
