"""What can be counted of the house: sizes of modules and folders, the map, citations of the design."""

import os
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES, FILES = 250, 16
# What installing, testing and using leave behind, where no git knows what is ignored.
MADE = {"build", "dist", "runs", "test-output"}
KEPT = {".ci", ".devcontainer", ".github"}
# The names that stand for a contributor's own in CONTRIBUTING.
EXAMPLE = re.compile(r"strided|inertia|NAME|[aA]6\.|11_subject")


@cache
def files() -> tuple[Path, ...]:
    """The repository's files, new ones too, relative to its root: by git, or by walking where there is none."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return walked(ROOT)
    found = [Path(name) for name in run.stdout.split("\0") if name]
    return tuple(path for path in found if (ROOT / path).exists())


def walked(root: Path) -> tuple[Path, ...]:
    """The same by walking."""
    found = []
    for folder, folders, names in os.walk(root):
        at_root = Path(folder) == root
        folders[:] = [
            name for name in folders
            if name in KEPT or not (name.startswith((".", "__")) or name.endswith(".egg-info"))
            if not (at_root and name in MADE)
        ]  # fmt: skip
        found += [(Path(folder) / name).relative_to(root) for name in names]
    return tuple(found)


def test_a_walk_finds_the_folders_that_git_knows():
    assert {path.parent for path in walked(ROOT)} == {path.parent for path in files()}


@pytest.mark.parametrize("path", [p for p in files() if p.suffix == ".py" and p.parts[0] != "tests"], ids=str)
def test_no_module_is_longer_than_a_reader_can_hold(path):
    lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{path} has {lines} lines; divide it by subject"


def test_no_folder_holds_more_files_than_a_reader_can_scan():
    counts = Counter(path.parent for path in files() if path.parent != Path())
    full = {str(folder): count for folder, count in counts.items() if count > FILES}
    assert not full, f"more than {FILES} files; make folders by subject: {full}"


def tree() -> set[str]:
    """Every folder below the root that holds a file, or a folder that does."""
    return {folder.as_posix() for path in files() for folder in path.parents if folder != Path()}


def mapped(readme: str) -> set[str]:
    """The folders that the map names: a row's own in its first cell, those inside it as `name/`."""
    rows = re.findall(r"^\| `([\w./-]+)/` \|(.+)\|$", readme, re.MULTILINE)
    inside = {f"{folder}/{name}" for folder, words in rows for name in re.findall(r"`([\w./-]+)/`", words)}
    return {folder for folder, _ in rows} | inside


def test_the_map_is_the_tree():
    named, there = mapped((ROOT / "docs/folders.md").read_text(encoding="utf-8")), tree()
    assert not there - named, f"not on the map: {sorted(there - named)}"
    assert not named - there, f"on the map and not there: {sorted(named - there)}"


def test_a_map_names_a_rows_folder_and_those_inside_it():
    assert mapped("| `a/` | words, `b/` and `c.py` |\n| `a/d/` | words |\n") == {"a", "a/b", "a/d"}


def anchors(text: str) -> set[str]:
    """The places of a page that a link can lead to, as GitHub and the documentation name them."""
    titles = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def citations() -> list[tuple[Path, str]]:
    """Every ``docs/design.md#place``, and every link inside the page itself."""
    found = []
    for path in files():
        if path.suffix in {".py", ".md", ".ipynb", ".toml", ".yaml", ".yml"} and path != Path(
            __file__
        ).relative_to(ROOT):
            text = (ROOT / path).read_text(encoding="utf-8")
            found += [(path, place) for place in re.findall(r"design\.md(?:#([\w-]+))?", text)]
            if path == Path("docs/design.md"):
                found += [(path, place) for place in re.findall(r"\]\(#([\w-]+)\)", text)]
    return found


def test_every_citation_of_the_design_leads_somewhere():
    places = anchors((ROOT / "docs/design.md").read_text(encoding="utf-8")) | {""}
    cited = citations()
    assert any(path.suffix == ".py" for path, _ in cited), "no module cites it"
    lost = [f"{path}: #{place}" for path, place in cited if place not in places]
    assert not lost, f"cited and not there: {lost}"


def test_no_text_cites_a_design_that_the_repository_does_not_have():
    texts = [
        path for path in files() if path.suffix in {".py", ".md", ".ipynb"} and ROOT / path != Path(__file__)
    ]
    lost = [
        str(path) for path in texts if re.search(r"\bDESIGN\b", (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not lost


def paths_in(text: str) -> set[str]:
    """Modules, pages and notebooks of the repository that a text names from its root."""
    pattern = r"(?<![\w/.-])((?:multipole_lab|kernels|tests|docs|data|notebooks)/[\w./-]*\.(?:py|md|ipynb))\b"
    return set(re.findall(pattern, text))


def test_every_file_that_a_text_names_is_there():
    lost = []
    for path in files():
        if path.suffix in {".py", ".md", ".ipynb", ".toml", ".yaml", ".yml"} and path.parts[0] != "tests":
            named = sorted(paths_in((ROOT / path).read_text(encoding="utf-8")))
            lost += [
                f"{path}: {name}" for name in named if not (ROOT / name).exists() and not EXAMPLE.search(name)
            ]
    assert not lost
