"""Files are whole or not there, and JSON lines survive a kill at any byte."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import multipole_lab
from multipole_lab import files
from multipole_lab.files import JsonLines, new_folder, replacing

LIBRARY = Path(multipole_lab.__file__).parent


def test_nothing_else_moves_files_into_place_or_locks_them():
    """A new place that wrote and renamed by itself would lack what this module takes care of."""
    own = {
        "os.replace",
        "os.rename",
        "fcntl.flock",
        "fcntl.lockf",
        "tempfile.NamedTemporaryFile",
        "tempfile.mkstemp",
    }
    found = {
        (path.relative_to(LIBRARY).as_posix(), ast.unparse(node.func))
        for path in LIBRARY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in own
    }
    assert found == {("files.py", "os.replace"), ("files.py", "fcntl.flock")}


def test_a_text_is_written_as_it_is_and_keeps_the_mode_of_the_file_before(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    path.chmod(0o600)
    files.write(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as partial:
        partial.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_missing_folder_is_named_and_not_the_passing_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        files.write(tmp_path / "no" / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "no" / "a.txt")


def test_a_link_is_followed_and_a_pipe_written_directly(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "a.txt")
    files.write(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text() == "text"
    code = "from multipole_lab import files; files.write('/dev/stdout', 'text')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "text", done.stderr


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    place = tmp_path / "model"
    with pytest.raises(UnicodeEncodeError), new_folder(place) as made:
        (made / "a").write_text("half \ud800", encoding="utf-8")
    assert os.listdir(tmp_path) == []
    with new_folder(place) as made:
        (made / "deep").mkdir()
        (made / "deep" / "a").write_text("whole")
        (made / "deep" / "a").chmod(0o400)
        assert not place.exists()
    assert (place / "deep" / "a").read_text() == "whole"
    assert place.stat().st_mode & 0o777 == 0o777 & ~current_umask()
    assert os.listdir(tmp_path) == ["model"]


def test_of_two_makers_of_one_folder_the_first_stays(tmp_path):
    place = tmp_path / "model"
    with new_folder(place, lambda path: (path / "a").is_file()) as made:
        (made / "a").write_text("second")
        place.mkdir()
        (place / "a").write_text("first")
    assert (place / "a").read_text() == "first"
    with pytest.raises(OSError, match="not empty"), new_folder(place):
        pass
    assert os.listdir(tmp_path) == ["model"]


def test_lines_survive_a_cut_at_every_byte(tmp_path):
    lines, rows = JsonLines(tmp_path / "new" / "a.jsonl"), [{"i": 0, "text": "é"}, {"i": 1}]
    assert lines.entries() == []
    with lines:
        for row in rows:
            lines.add(row)
    raw = lines.path.read_bytes()
    for end in range(len(raw) + 1):
        lines.path.write_bytes(raw[:end])
        whole = raw[:end].count(b"\n")
        assert lines.entries() == rows[:whole]
        with lines:
            lines.drop_unfinished_line()
            lines.add({"i": 2})
        assert lines.entries() == [*rows[:whole], {"i": 2}]


def test_lines_are_kept_by_choice_and_an_unfinished_one_goes(tmp_path):
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.keep(lambda row: True)
    for i in range(3):
        lines.add({"i": i})
    with lines.path.open("a") as file:
        file.write('{"i": 4')
    lines.keep(lambda row: row["i"] != 1)
    assert lines.path.read_text() == '{"i": 0}\n{"i": 2}\n'


@pytest.mark.parametrize(
    ("line", "said"), [("{no}", "line 2 is no JSON"), ("[1]", "line 2 is no JSON object")]
)
def test_a_damaged_line_is_named(tmp_path, line, said):
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.path.write_text(f"{{}}\n{line}\n{{}}\n")
    with pytest.raises(ValueError, match=said):
        lines.entries()


def test_there_is_one_writer_and_any_number_of_readers(tmp_path):
    path = tmp_path / "a.jsonl"
    other = (
        f"from multipole_lab.files import JsonLines\nlines = JsonLines({str(path)!r})\n"
        "print(lines.entries())\nwith lines: pass"
    )
    with JsonLines(path) as lines:
        lines.add({"i": 0})
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
        assert done.stdout.strip() == "[{'i': 0}]"
        assert "BlockingIOError" in done.stderr
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
