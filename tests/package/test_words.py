"""Texts for readers and code keep to plain words, and to the one name that the glossary has for each thing."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("data/**/*.md"),
]
NOTEBOOKS = [path for path in ROOT.glob("notebooks/**/*") if path.suffix in {".ipynb", ".md"}]
TEXTS = sorted(path for path in PAGES + NOTEBOOKS if ".ipynb_checkpoints" not in path.parts)
CODE = sorted(
    path
    for folder in ("multipole_lab", "kernels", "tests", "docs")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if path != Path(__file__)
)
# What is written instead of a word.
AVOIDED = {
    r"mend(s|ed|ing)?|repair\w*": "fix",
    r"dear(er|est)?": "costly",
    r"spatial(?!_)|stretch(es)?|contiguous blocks?": "run, or span where it is no cluster",  # spatial_full: recorded
    r"(first|at most|but) so many": "that many, or the name of the number",
    r"epitaph|bury|buried|corpse|lest|ere|nought|heed|hence|thence": "a word of every day",
    r"anew|afresh": "again",
    r"(can be|is|was|are) told (about|what|to|besides)|not told": "the options, by default",
    r"zygotes?": "fork server",
}
# Old names that work for one version more, in the file that knows them and in the tests of that.
OLD_NAMES = {
    "multipole_lab/renamed.py": r"spatial|zygote",
    "multipole_lab/doctor.py": r"mend",
    "tests/package/test_renamed.py": r"spatial",
    "tests/package/test_doctor.py": r"mend",
}


def avoided(text: str, letter: str = r"\w", but: str = "(?!)") -> dict[str, str]:
    """Where a text has a word that it should not have, and what to write instead; a `letter` is part of a word."""
    return {
        " ".join(text[max(0, hit.start() - 30) : hit.end() + 30].split()): instead
        for words, instead in AVOIDED.items()
        for hit in re.finditer(rf"(?<!{letter})({words})(?!{letter})", text, re.IGNORECASE)
        if not re.fullmatch(but, hit[1], re.IGNORECASE)
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
    assert not avoided(shown(path))


def test_code_comments_and_messages_are_plain():
    found = {}
    for path in CODE:
        name = path.relative_to(ROOT).as_posix()
        # The parts of a name are words too.
        words = avoided(path.read_text(encoding="utf-8"), "[a-z]", OLD_NAMES.get(name, "(?!)"))
        found |= {f"{name}: {place}": instead for place, instead in words.items()}
    assert found == {}


def test_an_avoided_word_is_found_wherever_it_stands():
    for word in ("mend", "Dearer", "at most so many", "lest", "anew", "zygote", "is told what"):
        assert avoided(f"what {word} is"), word
    assert not avoided("recommended, wherever, deared, Lestrade, manew")


def test_texts_and_code_are_found():
    assert len(TEXTS) > 20
    assert {".ipynb", ".md"} == {path.suffix for path in TEXTS}
    assert len(CODE) > 400
    known = {path.relative_to(ROOT).as_posix() for path in CODE}
    assert set(OLD_NAMES) <= known
