"""The page of symbols and words: each stands in the notebook that it names, and none is explained before."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "symbols.md").read_text(encoding="utf-8")
PROSE = {
    path.stem[:2]: " ".join(
        " ".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown").split()
    )
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
}
SYMBOLS, WORDS = (
    [
        [part.strip() for part in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ][1:]
    for text in PAGE.split("## Words")
)
# How words stand in sentences, where that is more than a letter s.
FORMS = {
    "attention mass": "mass", "autograd": "autograd", "energy": "energ(y|ies)", "exact": "exact",
    "held out": "held.out", "open": "open(s|ed)?", "position bias": "position biases", "rotate": "rotated",
    "summary": "summar(y|ies)", "tilt": "tilt(ed)?", "memory-bound": "memory-bound", "near": "near( clusters?)?",
    "nearest": "nearest",
}  # fmt: skip


def test_every_symbol_stands_in_the_notebook_that_is_named():
    for symbols, *_, home in SYMBOLS:
        for symbol, place in zip(symbols.split("$, $"), (re.split(", ", home) * 9), strict=False):
            text = re.escape(symbol.strip("$").removesuffix("(q)"))
            found = [number for number, prose in PROSE.items() if re.search(text + "(?![a-z])", prose)]
            assert place in found, f"{symbol} is said to be from {place}, and stands in {found}"


@pytest.mark.parametrize(("words", "meaning", "home"), WORDS, ids=[row[0] for row in WORDS])
def test_every_word_stands_in_the_notebook_that_is_named_and_is_bold_in_none_before(words, meaning, home):
    for word in words.split(", "):
        form = FORMS.get(word, re.escape(word) + "s?")
        assert re.search(rf"(?i)\b{form}\b", PROSE[home]), f"notebook {home} has no {word!r}"
        bold = [number for number, prose in PROSE.items() if re.search(rf"(?i)\*\*{form}\*\*", prose)]
        assert not [number for number in bold if number < home], f"{word!r} is explained in {bold[0]}"
