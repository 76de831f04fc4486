"""The guides answer: every public name has an example that runs, every line of the doctor its remedy."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import multipole_lab as ml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = ROOT / "docs/guides/examples.md"
PARTS = ROOT / "docs/guides/examples_of_parts.md"


@pytest.mark.slow
@pytest.mark.parametrize("page", [EXAMPLES, PARTS], ids=lambda page: page.stem)
def test_every_example_prints_what_stands_below_it(page):
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 30
    assert failed == 0


@pytest.mark.parametrize("part", ["clustering", "measure", "testing"])
def test_every_name_of_a_part_has_an_example(part):
    lines = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", PARTS.read_text(encoding="utf-8"), re.MULTILINE))
    names = set(getattr(ml, part).__all__) - set(ml.__all__)  # those have theirs on the first page
    assert not [name for name in names if not re.search(rf"\b{part}\.{name}\b", lines)]


def test_every_public_name_has_an_example():
    lines = re.findall(r"^(?:>>>|\.\.\.) (.*)$", EXAMPLES.read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for name in ml.__all__ if not inspect.ismodule(getattr(ml, name))]
    assert len(names) > 15
    assert not [name for name in names if not re.search(rf"\bml\.{name}\b", "\n".join(lines))]


def test_every_line_of_the_doctor_is_explained():
    page = (ROOT / "docs/guides/failures.md").read_text(encoding="utf-8")
    explained = {
        name
        for row in re.findall(r"^\| ([^|]+) \|", page.split("## What the doctor")[1], re.M)
        for name in re.split(r", (?!instructors)", row)
    }
    sources = "".join(path.read_text() for path in (ROOT / "multipole_lab/diagnosis").glob("*.py"))
    explained |= {"make docs, make app"}
    named = set(re.findall(r'(?:Finding|Feature)\(\s*"([^"]+)"', sources))
    assert len(named) > 12
    assert named <= explained


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(((?!https?:|#)[^)#\s]+)", text):
        assert (page.parent / link).exists(), link


def places(page):
    """The headings of a page as links name them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_question_leads_to_a_heading():
    page = ROOT / "docs/guides/questions.md"
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+\?) \| \[[^\]]+\]\(([^)#]*)#?([^)]*)\)[^|]* \|$", text, re.M)
    assert len(rows) >= 60
    assert len({question for question, *_ in rows}) == len(rows)
    for question, link, place in rows:
        assert not place or place in places(page.parent / link if link else page), question


def test_no_page_of_the_site_leads_out_of_it():
    """The site has what is in docs/ and the notebooks: a link to another file fails `make docs`."""
    for page in (ROOT / "docs").rglob("*.md"):
        links = re.findall(r"\]\(((?!https?:|#)[^)#\s]+)", page.read_text(encoding="utf-8"))
        inside = [(page.parent / link).resolve().relative_to(ROOT).parts[0] for link in links]
        assert set(inside) <= {"docs", "notebooks"}, page
