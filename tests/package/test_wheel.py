"""The wheel: one package with its data, and all that an environment without any extra makes of it."""

import ast
import importlib.metadata as metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from surroundings import empty_environment

import multipole_lab
from multipole_lab.extras import needs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of this checkout, built without the network, from a copy: no build/ is left behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("multipole_lab", "kernels", "data", "docs", "notebooks"):
        passing = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, source / name, ignore=passing)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
    ]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_one_top_level_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"multipole_lab"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_holds_the_data(wheel):
    suffixes = {".json", ".md", ".safetensors", ".txt"}
    files = {path.relative_to(ROOT) for path in (ROOT / "data").rglob("*") if path.suffix in suffixes}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"multipole_lab/{file.as_posix()}" for file in files} <= names


def test_wheel_holds_the_lessons_the_template_of_an_assignment_and_no_master(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    lessons = {f"multipole_lab/notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert len(lessons) > 10
    template = "multipole_lab/course/own/template/A0.ipynb"
    assert {name for name in names if name.endswith(".ipynb")} == lessons | {template}


def test_wheel_is_no_larger_than_a_reader_waits_for(wheel):
    files = zipfile.ZipFile(wheel).infolist()
    data = [file for file in files if file.filename.startswith("multipole_lab/data/")]
    assert sum(file.compress_size for file in data) < 25e6
    assert wheel.stat().st_size < 26e6


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target"]
    subprocess.run([*command, str(folder), str(wheel)], check=True)
    return folder


def test_wheel_imports_kernels(installed):
    # -S: without site-packages and the editable install in it, which would hide a file missing in the wheel.
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import multipole_lab; from importlib.resources import files\n"
        "from importlib.util import find_spec\n"
        "assert files('multipole_lab.data').joinpath('__init__.py').is_file()\n"
        "print(multipole_lab.__version__, find_spec('multipole_lab.kernels').origin)"
    )
    command = [sys.executable, "-S", "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    version, file = done.stdout.split(maxsplit=1)
    assert version == multipole_lab.__version__ == metadata.version("multipole_lab")
    assert Path(file.strip()).is_relative_to(installed)


# --- in an environment without any extra ----------------------------------------------------------


@pytest.fixture(scope="module")
def said(installed) -> dict:
    """What `empty_environment.main` found."""
    program = Path(empty_environment.__file__)
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(program), str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, cwd="/", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["where"]).is_relative_to(installed)
    return found


COMMANDS = tuple(
    f"pip install 'multipole_lab[{extra}]'" for extra in {need.extra for need in needs()} if extra
)


COMMANDS += ("pip install lm-eval",)  # no extra brings EleutherAI's harness


def in_our_words(text: str) -> bool:
    """Whether an outcome is fine, or names a package and the command that installs it."""
    return text == "fine" or (text.startswith("MissingPackage: ") and text.endswith(COMMANDS))


def test_extras_are_hidden(said):
    installed = {"ipywidgets", "nbgrader", "gguf", "playwright"} & set(metadata.packages_distributions())
    assert installed
    assert installed <= empty_environment.hidden_modules()
    assert not {"torch", "tqdm", "packaging", "multipole_lab"} & empty_environment.hidden_modules()
    assert said["names"]["ml.panels"].startswith("MissingPackage: a panel needs ipywidgets and anywidget: ")


def test_every_command_helps(said):
    assert {name: status for name, (status, _) in said["help"].items() if status != 0} == {}


def test_every_name_and_module_is_there_or_says_what_installs_it(said):
    assert len(said["names"]) > 50
    assert len(said["modules"]) > 150
    outcomes = {**said["names"], **said["modules"]}
    assert {name: text for name, text in outcomes.items() if not in_our_words(text)} == {}


def test_all_but_panels_works(said):
    assert {name for name in said["names"] if said["names"][name] != "fine"} == {"ml.panels"}
    assert said["attention"] is True


def test_the_lab_is_copied_and_says_what_opens_it(said):
    status, text = said["copies"]
    assert status == 0, text
    assert "files copied" in text
    status, text = said["lab"]
    assert status == 1
    assert "pip install 'multipole_lab[lab]'" in text


@pytest.mark.parametrize("step", ["release", "solutions"])
def test_releasing_says_all_that_is_missing_at_once(step, said):
    status, text = said[step]
    assert status == 1
    assert "nbgrader" in text
    assert "pip install 'multipole_lab[course]'" in text
    assert "the repository, in notebooks/assignments" in text
    assert "--masters DIR" in text
    assert "Traceback" not in text


def test_grading_says_where_the_masters_are(said):
    status, text = said["grade"]
    assert status == 1
    assert "the repository, in notebooks/assignments" in text
    assert "nbgrader" not in text  # grading needs none of it


def test_doctor_knows_an_empty_environment_as_whole(said, installed):
    status, text = said["doctor"]
    assert status == 0, text
    for extra in ("lab", "course", "models", "test", "docs"):
        assert f"multipole_lab[{extra}]" in text
    for folder in (str(installed), sys.prefix):  # which are as long as they are
        text = text.replace(folder, "FOLDER")
    assert [line for line in text.splitlines() if len(line) > 80 and "->" not in line] == []


def test_every_optional_import_is_guarded():
    """Imports inside functions are not seen by importing every module: their files ask `extras.require` first."""
    optional = {need.module for need in needs() if need.extra} - {
        need.module for need in needs() if not need.extra
    }
    bare = []
    for path in [*(ROOT / "multipole_lab").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        tried = {node for part in ast.walk(tree) if isinstance(part, ast.Try) for node in ast.walk(part)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            guarded = node in tried or "extras.require(" in text or "panels" in path.relative_to(ROOT).parts
            if not guarded and {name.split(".")[0] for name in names} & optional:
                bare.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    assert bare == []
