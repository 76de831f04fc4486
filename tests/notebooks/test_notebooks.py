"""Every notebook teaches in the same order, ends with exercises and what to remember, and links to what exists."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
LESSONS = [path for path in PATHS if path.stem != "00_tour"]
# The tour and the notebook on pretraining say the same in other words: bold ones, where the others have headings.
ORDERED = [path for path in LESSONS if path.stem != "09_pretraining"]
PARTS = ["Question", "Picture", "Equation", "A few lines", "Panel", "Exercises", "What to remember"]
NAMES = {
    "00_tour", "01_exact_attention", "02_key_clusters", "03_monopole_and_dipole", "04_near_and_far",
    "05_causal_hierarchy", "06_decoding", "07_kernels", "08_your_model", "09_pretraining", "10_scaling",
}  # fmt: skip


def read(path: Path, kind: str) -> str:
    """All cells of one kind, in their order."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == kind)


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def test_all_notebooks_are_there():
    assert {path.stem for path in PATHS} == NAMES


@named(PATHS)
def test_file_is_small(path):
    assert path.stat().st_size < 100_000


@named(ORDERED)
def test_parts_come_in_the_order_of_every_notebook(path):
    headings = re.findall(r"^## (.+)$", read(path, "markdown"), flags=re.MULTILINE)
    places = [[i for i, heading in enumerate(headings) if heading.startswith(part)] for part in PARTS]
    missing = [part for part, place in zip(PARTS, places, strict=True) if not place]
    assert not missing, f"no heading {missing}; there are {headings}"
    firsts = [place[0] for place in places]
    assert firsts == sorted(firsts), f"headings are in another order: {headings}"


@named(LESSONS)
def test_three_to_five_exercises_have_a_hint_and_a_solution_folded_away(path):
    text = read(path, "markdown")
    start = re.search(r"^(## Exercises|\*\*Exercises\.\*\*)", text, flags=re.MULTILINE)
    assert start, "no exercises"
    exercises = re.split(r"^\*\*\d\.\*\* ", text[start.end() :], flags=re.MULTILINE)[1:]
    assert 3 <= len(exercises) <= 5
    for number, exercise in enumerate(exercises, start=1):
        folded = re.findall(r"<details><summary>(\w+)</summary>(.*?)</details>", exercise, flags=re.DOTALL)
        assert [name for name, _ in folded] == ["Hint", "Solution"], f"exercise {number} of {path.name}"
        assert all(body.strip() for _, body in folded), f"exercise {number} of {path.name} folds nothing away"


@named(LESSONS)
def test_solutions_are_python(path):
    blocks = re.findall(r"^```python\n(.*?)^```", read(path, "markdown"), flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        compile(block, path.name, "exec")


@named(ORDERED)
def test_more_prose_than_code_and_a_panel(path):
    prose, code = read(path, "markdown"), read(path, "code")
    assert len(prose.split()) > len(code.split())
    assert "ml.panels." in code


@named(PATHS)
def test_no_cell_of_code_is_above_eight_lines(path):
    cells = nbformat.read(path, as_version=4).cells
    lengths = [len(cell.source.splitlines()) for cell in cells if cell.cell_type == "code"]
    assert max(lengths) <= 8, f"lines of code cells: {lengths}"


@named(PATHS)
def test_the_top_says_how_long_it_takes_and_what_it_needs(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    assert re.search(r"^\*[^*]*(minutes|hour)[^*]*need", first, re.M), first[:200]


@named(PATHS)
def test_the_end_has_one_question_for_the_next_notebook(path):
    text = read(path, "markdown")
    asked = re.findall(r"\*\*A (?:last )?question[^*]*\*\*", text)
    assert len(asked) == 1, asked
    assert "?" in text[text.index(asked[0]) :]


@named(PATHS)
def test_every_notebook_has_tests_of_what_it_claims(path):
    assert (Path(__file__).parent / f"test_claims_{path.stem[:2]}.py").exists()


@named(PATHS)
def test_links_lead_to_files_that_exist(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(path, "markdown"))
    local = [link for link in links if not re.match(r"https?:", link)]
    missing = [link for link in local if not (path.parent / link).exists()]
    assert not missing, f"{path.name} links to {missing}"


@named(PATHS)
def test_last_cell_leads_to_the_words_and_symbols(path):
    last = nbformat.read(path, as_version=4).cells[-1]
    assert last.cell_type == "markdown"
    assert "](../docs/symbols.md)" in last.source


def test_the_page_of_words_has_every_word_of_the_glossary():
    design, page = (
        (FOLDER.parent / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("design", "symbols")
    )
    glossary = design.split("## Glossary")[1]
    words = {
        word for first in re.findall(r"^\| ([^|]+) \|", glossary, re.M)[2:] for word in first.split(", ")
    }
    ours = {word for first in re.findall(r"^\| ([^|]+) \|", page, re.M) for word in first.split(", ")}
    assert words - ours == set()


@named(PATHS)
def test_cell_ids_are_the_same_on_every_build(path):
    ids = [cell.id for cell in nbformat.read(path, as_version=4).cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9-]+-\d\d", identity) for identity in ids), ids


@named(PATHS)
def test_pictures_of_a_notebook_say_what_they_show(path):
    said = re.findall(r"!\[([^\]]*)\]\(images/", read(path, "markdown"))
    assert all(len(words) > 20 for words in said), f"{path.name} has a picture without a description: {said}"


@named(PATHS)
def test_figures_of_cells_do_not_listen_to_the_window(path):
    shown = re.findall(r"\.show\((.*?)\)", read(path, "code"), re.S)
    assert {" ".join(words.split()) for words in shown} <= {"config=theme.CELL_CONFIG"}
