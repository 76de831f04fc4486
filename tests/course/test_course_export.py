"""The archives for Gradescope and otter-grader: what is in them, and that they are the same each time."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import PurePosixPath

import exported
import pytest

from multipole_lab import cli
from multipole_lab.course.export import archive
from multipole_lab.course.export.gradescope import gradescope
from multipole_lab.course.export.nbgrader_course import nbgrader
from multipole_lab.course.export.otter import otter
from multipole_lab.course.grading import notebook, release

ARCHIVES = {"gradescope": gradescope, "otter": otter}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """{system: its archive}."""
    folder = tmp_path_factory.mktemp("built")
    return {system: write("A1", folder) for system, write in ARCHIVES.items()}


@pytest.mark.parametrize("system", ARCHIVES)
def test_an_archive_is_the_same_bytes_again(system, built, tmp_path):
    assert ARCHIVES[system]("A1", tmp_path).read_bytes() == built[system].read_bytes()


@pytest.mark.parametrize("system", ARCHIVES)
def test_an_archive_unpacks_below_its_folder_and_its_scripts_are_programs(system, built):
    with zipfile.ZipFile(built[system]) as zipped:
        modes = {info.filename: info.external_attr >> 16 for info in zipped.infolist()}
    assert {"setup.sh", "run_autograder"} <= set(modes)  # in the root, where they are looked for
    for name, mode in modes.items():
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert stat.S_ISREG(mode)  # no links
        assert bool(mode & 0o111) == (name in ("setup.sh", "run_autograder"))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//x", "./x", "a\\..\\x"])
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="may not hold"):
        archive.write(tmp_path / "x.zip", {name: "x"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("system", ARCHIVES)
def test_scripts_are_right_bash(system, built):
    with zipfile.ZipFile(built[system]) as zipped:
        for name in ("setup.sh", "run_autograder"):
            subprocess.run(["bash", "-n"], input=zipped.read(name), check=True)


def test_hidden_tests_are_in_one_file_of_an_archive_only(built):
    """So that whoever keeps that one from students keeps all of them."""
    seed = notebook.load_master("A1").items[0].tests.splitlines()[0].split(" = ")[1]
    assert seed.startswith("ml.course.Random(")
    holding = {}
    for system, path in built.items():
        with zipfile.ZipFile(path) as zipped, zipfile.ZipFile(zipped.open("requirements.whl")) as wheel:
            texts = {name: each.read(name) for each in (zipped, wheel) for name in each.namelist()}
        holding[system] = [name for name, text in texts.items() if seed.encode() in text]
    assert holding == {"gradescope": ["masters/A1.ipynb"], "otter": ["otter_config.json"]}


def test_the_wheel_in_an_archive_is_the_library(tmp_path):
    name, content = archive.wheel()
    path = tmp_path / name
    path.write_bytes(content)
    code = """if True:
        import importlib.metadata as metadata, importlib.util, sys
        sys.path.insert(0, sys.argv[1])
        for name in ("multipole_lab", "multipole_lab.kernels", "multipole_lab.data"):
            print(importlib.util.find_spec(name).origin)
        print(metadata.version("multipole_lab"), metadata.entry_points(name="multipole-lab"))
    """
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(str(path)) == 3
    assert "multipole_lab.cli:main" in run.stdout


def test_the_commands_write_them(tmp_path, capsys):
    masters = exported.masters(tmp_path / "masters")
    for step in ("gradescope", "otter", "nbgrader"):
        argv = ["course", step, "A1", "--to", str(tmp_path / step), "--masters", str(masters)]
        assert cli.main(argv) == 0
        assert str(tmp_path / step) in capsys.readouterr().out
    assert cli.main(["course", "otter", "A9", "--to", str(tmp_path), "--masters", str(masters)]) == 1
    assert "no assignment 'A9'" in capsys.readouterr().err
    argv = ["course", "gradescope", "A1", "--to", str(tmp_path), "--masters", str(masters)]
    assert cli.main([*argv, "--visibility", "now"]) == 1
    assert "visibility is 'now'; after_due_date, after_published" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["A1", "A2", "A3", "A4", "A5"])
def test_an_nbgrader_source_has_no_hidden_tests_and_its_maximum_no_bonus(name, tmp_path):
    source = nbgrader(name, tmp_path)
    text = source.read_text(encoding="utf-8")
    assert nbgrader(name, tmp_path).read_text(encoding="utf-8") == text
    master = notebook.load_master(name)
    assert (tmp_path / "masters" / f"{name}.ipynb").read_text(encoding="utf-8") == master.text
    cells, _ = notebook.read(text)
    assert sum(cell.grade["points"] for cell in cells if cell.grade.get("grade")) == 40
    for item in master.items:
        for line in item.tests.splitlines():
            assert len(line) < 30 or json.dumps(line)[1:-1] not in text
    # What students get differs in the points of the bonus alone.
    theirs, _ = notebook.read(release.student_text(notebook.load_master(name, source.parent)))
    ours, _ = notebook.read(release.student_text(master))
    assert [cell.source for cell in theirs] == [cell.source for cell in ours]


def test_a_configuration_of_the_courses_own_is_left_alone(tmp_path):
    config = tmp_path / "nbgrader_config.py"
    config.write_text("c = get_config()\n")
    with pytest.raises(ValueError, match=r"configure\(c, Path\(__file__\)"):
        nbgrader("A1", tmp_path)
    assert os.listdir(tmp_path) == ["nbgrader_config.py"]
    assert config.read_text() == "c = get_config()\n"
