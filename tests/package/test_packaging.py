"""It installs as it says: pins agree, kernels/ is multipole_lab.kernels only, transformers is undisturbed."""

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import multipole_lab
from multipole_lab.diagnosis.machine import PYTHONS

ROOT = Path(__file__).resolve().parents[2]
APART = {"docs"}  # installed by `make docs` and `make app`, not with the rest


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- the pins -------------------------------------------------------------------------------------


def pins(constraints: str) -> dict[str, str]:
    """Return {canonical name: version} of a constraints file in which every line is name==version."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    named = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in named), "a constraint that is no exact pin"
    result = {canonicalize_name(name): version for name, version in named}
    assert len(result) == len(lines), "a package is pinned twice"
    return result


def disagreements(pyproject: str, constraints: str, environment: str) -> list[str]:
    """Return a sentence for each place where the three files do not describe the same installation."""
    project, pinned, found = tomllib.loads(pyproject)["project"], pins(constraints), []
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        need = Requirement(line)
        version = pinned.get(canonicalize_name(need.name))
        if version is None or not need.specifier.contains(version):
            found.append(f"pyproject.toml wants {need}, constraints.txt has {version}")

    conda = yaml.safe_load(environment)["dependencies"]
    from_pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    from_conda = {Requirement(entry).name: Requirement(entry) for entry in conda if isinstance(entry, str)}
    if set(from_conda) != {"python", "pip"}:
        found.append(f"environment.yml takes {set(from_conda)} from conda, not just python and pip")
    classified = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    for minor in range(30):
        allowed = from_conda["python"].specifier.contains(f"3.{minor}.1")
        if allowed != (f"3.{minor}" in classified):
            found.append(f"environment.yml and pyproject.toml's classifiers disagree about Python 3.{minor}")
    if "--constraint constraints.txt" not in from_pip:
        found.append("environment.yml does not use constraints.txt")
    for entry in from_pip:
        if entry.startswith("--editable"):
            asked = set(re.search(r"\[(.*)\]", entry)[1].split(","))
            if asked != set(extras) - APART:
                found.append(f"environment.yml installs the extras {asked}, pyproject.toml has {set(extras)}")
        elif not entry.startswith("--"):
            pin = Requirement(entry)
            if str(pin.specifier) != f"=={pinned.get(canonicalize_name(pin.name))}":
                found.append(f"environment.yml pins {entry}, constraints.txt {pinned.get(pin.name)}")
    return found


def test_pins_agree():
    assert disagreements(read("pyproject.toml"), read("constraints.txt"), read("environment.yml")) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("environment.yml", "torch==2.13.0", "torch==2.12.0"),
        ("environment.yml", "python>=3.11,<3.15", "python>=3.10,<3.15"),
        ("environment.yml", "--constraint constraints.txt", "--pre"),
        ("environment.yml", "[course,lab,models,test]", "[lab]"),
        ("pyproject.toml", '"torch>=2.9"', '"torch>=99"'),
        ("pyproject.toml", '"plotly>=6.0"', '"plotly-unheard-of"'),
        ("constraints.txt", "\ntorch==", "\ntorch-of-old=="),
    ],
)
def test_pins_that_disagree_are_found(name, old, new):
    files = {file: read(file) for file in ("pyproject.toml", "constraints.txt", "environment.yml")}
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    assert disagreements(*files.values())


def test_constraints_leave_cuda_to_torch():
    assert not [name for name in pins(read("constraints.txt")) if name.startswith(("nvidia-", "cuda-"))]


def test_makefile_and_doctor_know_the_same_versions():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    oldest, newest = (".".join(map(str, version)) for version in PYTHONS)
    assert SpecifierSet(project["requires-python"]) == SpecifierSet(f">={oldest}")
    assert f"torch=={pins(read('constraints.txt'))['torch']}" in read("Makefile")
    extras = [extra for extra in project["optional-dependencies"] if extra not in APART]
    assert f".[{','.join(extras)}]" in read("Makefile")
    bounds = f"{PYTHONS[0]} <= sys.version_info[:2] <= {PYTHONS[1]}"
    assert bounds in read(".ci/venv"), f"{oldest} to {newest}"


def test_every_file_that_says_a_version_says_the_same():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == version == multipole_lab.__version__
    assert f"## [{version}] - {citation.get('date-released', '')}" in read("CHANGELOG.md")


def test_the_index_says_the_oldest_versions_that_are_taken():
    packages = tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    oldest = dict(re.findall(r"(torch|transformers|triton)>=([\d.]+)", " ".join(packages)))
    words = (
        "It needs torch {torch}, transformers {transformers} and, on Linux, Triton {triton}, or newer ones"
    )
    assert words.format(**oldest) in read("docs/index.md")


def test_until_the_first_release_the_changelog_says_so():
    published = "date-released" in yaml.safe_load(read("CITATION.cff"))
    assert published != ("Nothing is published yet" in read("CHANGELOG.md"))


# --- what gets installed --------------------------------------------------------------------------


def test_every_package_is_listed():
    listed = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["packages"]
    inside = {path.parent.relative_to(ROOT) for path in (ROOT / "multipole_lab").rglob("*.py")}
    beside = {
        path.parent.relative_to(ROOT)
        for name in ("data", "docs", "kernels", "notebooks")
        for path in (ROOT / name).rglob("__init__.py")
    }
    packages = inside | {"multipole_lab" / folder for folder in beside}
    assert {".".join(folder.parts) for folder in packages} == set(listed)


def test_editable_install_finds_kernels_and_data():
    code = "import multipole_lab.kernels as k, multipole_lab.data as d; print(k.__file__); print(d.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert [Path(line).name for line in done.stdout.splitlines()] == ["__init__.py"] * 2
    assert "multipole_lab" not in metadata.packages_distributions().get("kernels", [])


# --- transformers, started where our folder kernels/ shadows the Hugging Face package -------------

TINY_MODEL = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
model = LlamaForCausalLM.from_pretrained(sys.argv[1])
print("logits", tuple(model(torch.arange(5)[None]).logits.shape))
from transformers.utils import is_kernels_available
print("used", is_kernels_available())
import kernels
print("real", hasattr(kernels, "get_kernel"), hasattr(kernels, "__version__"))
import multipole_lab.kernels
print("ours", multipole_lab.kernels.__name__)
"""

# transformers takes only a narrow range of versions of `kernels`; this makes it take the one installed here.
ANY_VERSION = """
import transformers.utils.import_utils as u
u.is_kernels_available.__wrapped__.__defaults__ = ("0.0", "99.0")
"""

# As if the Hugging Face package had never been installed: neither its module nor its metadata is found.
NOT_INSTALLED = """
import importlib.metadata as m
from importlib.machinery import PathFinder
from pathlib import Path
find, version, owners = PathFinder.find_spec, m.version, m.packages_distributions
def find_spec(name, path=None, target=None):
    spec = find(name, path, target)
    ours = spec is None or spec.origin is None or Path(spec.origin).resolve().parents[1] == Path.cwd()
    return spec if name != "kernels" or ours else None
def version_of(name):
    if name == "kernels":
        raise m.PackageNotFoundError(name)
    return version(name)
PathFinder.find_spec, m.version = find_spec, version_of
m.packages_distributions = lambda: {k: v for k, v in owners().items() if k != "kernels"}
"""


def from_repository_root(code: str, folder: Path) -> dict[str, str]:
    """Run code as `python -c` does in the repository root: that folder is first on sys.path."""
    settings = {**os.environ, "HF_HUB_OFFLINE": "1"}
    settings.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


needs_hugging_face_kernels = pytest.mark.skipif(
    not any(True for _ in metadata.distributions(name="kernels")),
    reason="pip install kernels (in the extra test)",
)


@needs_hugging_face_kernels
@pytest.mark.parametrize("before", ["", ANY_VERSION], ids=["plain", "any version of kernels"])
def test_transformers_with_hugging_face_kernels(before, tmp_path):
    said = from_repository_root(before + TINY_MODEL, tmp_path)
    assert said["logits"] == "(1, 5, 32)"
    assert said["real"] == "True True", (
        "`import kernels` in the repository root must give the Hugging Face package"
    )
    assert said["ours"] == "multipole_lab.kernels"
    if before:
        assert said["used"] == "True"


def test_transformers_without_hugging_face_kernels(tmp_path):
    said = from_repository_root(NOT_INSTALLED + TINY_MODEL, tmp_path)
    assert said == {
        "logits": "(1, 5, 32)",
        "used": "False",
        "real": "False False",
        "ours": "multipole_lab.kernels",
    }
