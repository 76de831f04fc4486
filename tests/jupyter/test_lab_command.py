"""`multipole-lab lab`: notebooks copied whole, a reader's work never touched, JupyterLab for this computer only."""

import os
import re
import sys
from pathlib import Path

import pytest

from multipole_lab import cli, extras, folders
from multipole_lab.jupyter import lab_command
from multipole_lab.jupyter.copies import copy_notebooks

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_copies_are_the_repositorys_notebooks_images_and_pages(tmp_path):
    copied = copy_notebooks(tmp_path)
    assert not copied.same
    assert not copied.kept
    found = contents(tmp_path)
    assert set(copied.new) == set(found)
    assert all((ROOT / name).read_bytes() == text for name, text in found.items())
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == {
        path.name for path in (tmp_path / "notebooks").glob("*.ipynb")
    }
    assert not [name for name in found if "assignments" in name], "masters hold the solutions"


def test_every_link_of_a_copied_notebook_leads_to_a_copied_file(tmp_path):
    copy_notebooks(tmp_path)
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        for link in re.findall(r"\]\(((?!https?:)[\w./-]+)(?:#[\w-]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_a_second_copy_keeps_what_a_reader_wrote_and_brings_back_what_is_gone(tmp_path):
    first = copy_notebooks(tmp_path)
    tour, lesson = tmp_path / "notebooks/00_tour.ipynb", tmp_path / "notebooks/02_key_clusters.ipynb"
    tour.write_text("my work", encoding="utf-8")
    (tmp_path / "notebooks/mine.ipynb").write_text("{}", encoding="utf-8")
    lesson.unlink()
    again = copy_notebooks(tmp_path)
    assert again.new == ("notebooks/02_key_clusters.ipynb",)
    assert again.kept == ("notebooks/00_tour.ipynb",)
    assert len(again.same) == len(first.new) - 2
    assert tour.read_text(encoding="utf-8") == "my work"
    assert (tmp_path / "notebooks/mine.ipynb").exists()


def test_what_was_kept_is_named_with_the_command_for_a_whole_set(tmp_path, capsys):
    folder = tmp_path / "my course"
    assert cli.main(["lab", "--copy-only", "--notebooks", str(folder)]) == 0
    assert f"files copied to {folder}." in capsys.readouterr().out
    (folder / "notebooks/00_tour.ipynb").write_text("my work", encoding="utf-8")
    assert cli.main(["lab", "--copy-only", "--notebooks", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "notebooks/00_tour.ipynb." in said
    assert f"multipole-lab lab --notebooks '{folder}-fresh'" in said


def test_a_folder_that_cannot_be_is_named(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert cli.main(["lab", "--copy-only", "--notebooks", str(file)]) == 1
    assert f"cannot be copied to {file}" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_that_nobody_can_take_is_refused(port, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["lab", f"--port={port}"])
    assert f"'{port}' is no port" in capsys.readouterr().err


def test_jupyterlab_is_started_on_the_copies_with_the_labs_settings(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append((program, words)))
    assert cli.main(["lab", "--notebooks", str(tmp_path), "--port", "8899", "--no-browser"]) == 0
    ((program, words),) = started
    assert program == words[0] == sys.executable
    assert words[1:3] == ["-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={tmp_path}" in words
    assert "--ServerApp.port=8899" in words
    assert "--no-browser" in words
    (settings,) = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    text = Path(settings).read_text(encoding="utf-8")
    assert 'c.ServerApp.ip = "127.0.0.1"' in text
    assert "token" not in text.lower(), "JupyterLab draws one by itself unless it is set"
    (opened,) = [line.split('"')[1] for line in text.splitlines() if "default_url" in line]
    assert (tmp_path / opened.removeprefix("/lab/tree/")).exists()


def test_without_jupyterlab_nothing_is_copied_and_the_command_says_what_installs_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(extras, "is_there", lambda module: module != "jupyterlab")
    assert cli.main(["lab", "--notebooks", str(tmp_path / "new")]) == 1
    assert "the lab needs jupyterlab: pip install 'multipole_lab[lab]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_package_that_is_loaded_and_too_old_is_named_with_what_to_do(monkeypatch):
    extras.require_versions("a panel", "lab", "ipywidgets", "plotly")
    monkeypatch.setattr("ipywidgets.__version__", "7.7.1")  # Colab's own
    with pytest.raises(
        extras.MissingPackage,
        match=r"a panel needs ipywidgets>=8\.1, and 7\.7\.1 is loaded: pip install 'multipole_lab\[lab\]', "
        r"then restart the kernel \(in Colab",
    ):
        extras.require_versions("a panel", "lab", "plotly", "ipywidgets")


def test_the_default_folder_is_no_name_that_python_could_import():
    assert not lab_command.FOLDER.isidentifier()


def test_what_is_shipped_is_found_beside_the_package_where_it_is_not_installed(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(folders.importlib.resources, "files", missing)
    assert folders.shipped_folder("notebooks") == ROOT / "notebooks"
