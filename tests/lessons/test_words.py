"""Texts for readers keep to plain words, and to the one name that the glossary has for each thing."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/**/*.md")]
NOTEBOOKS = [path for path in ROOT.glob("notebooks/**/*") if path.suffix in {".ipynb", ".md"}]
TEXTS = sorted(path for path in PAGES + NOTEBOOKS if ".ipynb_checkpoints" not in path.parts)
AVOIDED = {
    r"mend(s|ed|ing)?|repair\w*": "fix",
    r"dear(er|est)?": "costly",
    r"spatial(?!_)|stretch(es)?|contiguous blocks?": "run, or span where it is no cluster",  # spatial_full: recorded
    r"(first|at most|but) so many": "that many, or the name of the number",
    r"epitaph|bury|buried|corpse|lest|ere|nought|heed|hence|thence": "a word of every day",
}


def shown(path: Path) -> str:
    """What a reader sees of a file; of the glossary not its column of names that are not used."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    return (
        re.sub(r"^(\|[^|\n]*\|[^|\n]*\|)[^|\n]*\|$", r"\1", text, flags=re.M)
        if path.stem == "design"
        else text
    )


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_plain(path):
    text = shown(path)
    found = {
        text[max(0, hit.start() - 30) : hit.end() + 30]: instead
        for words, instead in AVOIDED.items()
        for hit in re.finditer(rf"\b({words})\b", text, re.IGNORECASE)
    }
    assert not found


def test_texts_for_readers_are_found():
    assert len(TEXTS) > 20
    assert {".ipynb", ".md"} == {path.suffix for path in TEXTS}
