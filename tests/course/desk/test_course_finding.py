"""Which notebook is whose: names and folders as learning platforms, operating systems and students make them."""

import os
import time

import pytest

from multipole_lab.course.grading.finding import discover, file_name

KNOWN = ["A1", "A2", "A3"]
NOW = int(time.time())


def make(folder, *names):
    """Files, each newer by a minute than the one before; a name that ends in / is a folder."""
    for age, name in enumerate(names):
        path = folder / os.fsdecode(name)
        if str(name).endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(name))
        os.utime(path, (NOW + 60 * age, NOW + 60 * age))


def chosen(folder, assignment="A1"):
    """{student: the file that is graded}, all notes as one text, what was not looked at."""
    _, found, strays = discover(folder, assignment, KNOWN)
    files = {s.student: str(s.path.relative_to(folder)) if s.path.exists() else None for s in found}
    return files, " ".join(note for s in found for note in s.notes), strays


CASES = {
    # files, oldest first: ({student: the one that is graded}, what the notes say, what is not looked at)
    "one each": (
        ["ada.ipynb", "bob/A1.ipynb", "eve/A1/A1.ipynb"],
        ({"ada": "ada.ipynb", "bob": "bob/A1.ipynb", "eve": "eve/A1/A1.ipynb"}, "", []),
    ),
    "a file beside a folder, the file newer": (
        ["ada/A1.ipynb", "ada.ipynb"],
        ({"ada": "ada.ipynb"}, "2 notebooks, ada.ipynb, ada/A1.ipynb: ada.ipynb is graded (the newest", []),
    ),
    "a file beside a folder, the folder newer": (
        ["ada.ipynb", "ada/A1.ipynb"],
        ({"ada": "ada/A1.ipynb"}, "ada/A1.ipynb is graded", []),
    ),
    "a second download": (
        ["ada/A1.ipynb", "ada/A1 (1).ipynb"],
        ({"ada": "ada/A1 (1).ipynb"}, "A1 (1).ipynb is graded", []),
    ),
    "a second download, changed before": (
        ["ada/A1 (1).ipynb", "ada/A1.ipynb"],
        ({"ada": "ada/A1.ipynb"}, "2 notebooks", []),
    ),
    "a folder with all assignments": (
        ["ada/A1.ipynb", "ada/A2.ipynb", "ada/A3.ipynb"],
        ({"ada": "ada/A1.ipynb"}, "", []),
    ),
    "a folder with other assignments only": (
        ["ada/A2.ipynb", "ada/A3.ipynb"],
        ({"ada": None}, "no notebook of A1; there are", []),
    ),
    "folders of assignments": (
        ["ada/A1/work.ipynb", "ada/A2/work.ipynb"],
        ({"ada": "ada/A1/work.ipynb"}, "", []),
    ),
    "nbgrader's folders, twice": (
        ["ada/A1/A1.ipynb", "ada/A1.ipynb"],
        ({"ada": "ada/A1.ipynb"}, "2 notebooks", []),
    ),
    "another name": (["ada/homework.ipynb"], ({"ada": "ada/homework.ipynb"}, "its name does not say A1", [])),
    "two other names": (
        ["ada/homework.ipynb", "ada/Untitled.ipynb"],
        ({"ada": "ada/Untitled.ipynb"}, "2 notebooks", []),
    ),
    "a scratch file is no candidate": (
        ["ada/A1.ipynb", "ada/scratch.ipynb"],
        ({"ada": "ada/A1.ipynb"}, "", []),
    ),
    "small letters": (
        ["ada/a1.ipynb", "bob/A1.IPYNB", "eve.IPYNB"],
        ({"ada": "ada/a1.ipynb", "bob": "bob/A1.IPYNB", "eve": "eve.IPYNB"}, "", []),
    ),
    "a name around it": (
        ["ada/ada_lovelace-A1-final.ipynb"],
        ({"ada": "ada/ada_lovelace-A1-final.ipynb"}, "", []),
    ),
    "A10 is not A1": (["ada/A10.ipynb", "ada/A1.ipynb"], ({"ada": "ada/A1.ipynb"}, "", [])),
    "of other assignments at the top": (
        ["ada_A1.ipynb", "ada_A2.ipynb"],
        ({"ada_A1": "ada_A1.ipynb"}, "", ["ada_A2.ipynb (of another assignment)"]),
    ),
    "what systems leave": (
        [
            ".ipynb_checkpoints/A1-checkpoint.ipynb",
            "__MACOSX/ada/._A1.ipynb",
            "ada/._A1.ipynb",
            "ada/.ipynb_checkpoints/A1.ipynb",
            "ada/__MACOSX/A1.ipynb",
            "ada/A1.ipynb",
            ".DS_Store",
        ],
        ({"ada": "ada/A1.ipynb"}, "", []),
    ),
    "other files": (
        ["ada.ipynb", "bob.zip", "eve.py", ".zoe.ipynb"],
        ({"ada": "ada.ipynb"}, "", [".zoe.ipynb", "bob.zip", "eve.py"]),
    ),
    "an empty folder": (["ada/"], ({"ada": None}, "", [])),
    "deep": (
        ["ada/x/y/A1.ipynb", "bob/x/y/z/u/A1.ipynb"],
        ({"ada": "ada/x/y/A1.ipynb", "bob": None}, "", []),
    ),
    "a folder that is called like a notebook": (
        ["ada.ipynb/A1.ipynb", "bob/A1.ipynb/A1.ipynb"],
        ({"ada.ipynb": "ada.ipynb/A1.ipynb", "bob": "bob/A1.ipynb/A1.ipynb"}, "", []),
    ),
    "spaces, signs and other scripts": (
        [" ada .ipynb", "-rf/A1.ipynb", "Zoë Łŝ.ipynb", "李/A1.ipynb", "a'b\"c;d=e.ipynb", "%s{0}.ipynb"],
        (
            {
                " ada ": " ada .ipynb",
                "-rf": "-rf/A1.ipynb",
                "Zoë Łŝ": "Zoë Łŝ.ipynb",
                "李": "李/A1.ipynb",
                "a'b\"c;d=e": "a'b\"c;d=e.ipynb",
                "%s{0}": "%s{0}.ipynb",
            },
            "",
            [],
        ),
    ),
    "not UTF-8": (
        [b"caf\xe9/A1.ipynb", b"caf\xff.ipynb", b"ada/A1 \xe9.ipynb"],
        (
            {"caf\\xe9": "caf\udce9/A1.ipynb", "caf\\xff": "caf\udcff.ipynb", "ada": "ada/A1 \udce9.ipynb"},
            "",
            [],
        ),
    ),
    "control characters": (
        ["a\nb.ipynb", "c\x1b[2J.ipynb", "\u202egpj.ipynb"],
        ({"a\\nb": "a\nb.ipynb", "c\\x1b[2J": "c\x1b[2J.ipynb", "\\u202egpj": "\u202egpj.ipynb"}, "", []),
    ),
    "names that are shown alike": (
        [b"caf\xe9.ipynb", rb"caf\xe9.ipynb"],
        ({"caf\\xe9": "caf\\xe9.ipynb", "caf\\xe9 [2]": "caf\udce9.ipynb"}, "", []),
    ),
    "two spellings of one letter": (
        ["e\u0301.ipynb", "\u00e9.ipynb"],
        ({"e\u0301": "e\u0301.ipynb", "\u00e9": "\u00e9.ipynb"}, "", []),
    ),
    "the longest names": (
        ["é" * 120 + ".ipynb", "x" * 240 + "/A1.ipynb"],
        ({"é" * 120: "é" * 120 + ".ipynb", "x" * 240: "x" * 240 + "/A1.ipynb"}, "", []),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_right_notebook_is_found_and_the_others_are_named(tmp_path, case):
    names, (files, said, strays) = CASES[case]
    make(tmp_path / "in", *names)
    got, notes, beside = chosen(tmp_path / "in")
    assert got == files
    assert said in notes
    assert notes or not said
    assert (not said) == (not notes)
    assert sorted(beside) == sorted(strays)


def test_of_equally_new_notebooks_the_number_decides(tmp_path):
    make(tmp_path, "ada/A1.ipynb", "ada/A1 (2).ipynb", "ada/A1 (10).ipynb")
    for path in (tmp_path / "ada").iterdir():
        os.utime(path, (NOW, NOW))
    files, notes, _ = chosen(tmp_path)
    assert files == {"ada": "ada/A1 (10).ipynb"}
    assert "3 notebooks" in notes


def test_links_and_what_is_no_file_are_named_and_not_followed(tmp_path):
    make(tmp_path / "elsewhere", "A1.ipynb")
    make(tmp_path / "in", "ada/A1.ipynb", "eve/A1 (1).ipynb")
    (tmp_path / "in" / "bob").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "eve" / "A1.ipynb").symlink_to(tmp_path / "elsewhere" / "A1.ipynb")
    (tmp_path / "in" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "in" / "pipe.ipynb")
    files, notes, _ = chosen(tmp_path / "in")
    assert files["ada"] == "ada/A1.ipynb"
    assert files["eve"] == "eve/A1 (1).ipynb", "a link is the last to be taken"
    assert "bob is a link, which is not followed" in notes
    assert "loop is a link" in notes
    _, found, _ = discover(tmp_path / "in", "A1", KNOWN)
    assert all(s.path.is_symlink() or not s.path.exists() for s in found if s.student in ("bob", "loop"))


def test_a_folder_that_cannot_be_read_costs_its_student_only(tmp_path, monkeypatch):
    make(tmp_path, "ada/A1.ipynb", "bob/A1.ipynb")
    scandir = os.scandir

    def closed(path):
        if os.fspath(path).endswith("bob"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("multipole_lab.course.grading.finding.os.scandir", closed)
    files, notes, _ = chosen(tmp_path)
    assert files["ada"] == "ada/A1.ipynb"
    assert "the folder bob cannot be read (Permission denied)" in notes


def test_a_time_that_no_calendar_has_is_no_time(tmp_path):
    make(tmp_path, "ada/A1.ipynb", "ada/A1 (1).ipynb")
    os.utime(tmp_path / "ada" / "A1 (1).ipynb", (1 << 40, 1 << 40))
    assert chosen(tmp_path)[0]["ada"]


def test_file_names_are_short_and_belong_to_one_student():
    names = [
        "ada",
        "a/b",
        "a_b",
        "é" * 120,
        "é" * 121,
        "x" * 300,
        "",
        "..",
        ".hidden",
        "a\\nb",
        "caf\\xe9",
        "CON",
    ]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(len(name.encode()) < 120 and "/" not in name and name[:1] != "." for name in files)
