"""What a type checker sees of the public names, which are imported when first used."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import multipole_lab as ml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["multipole_lab", *(f"multipole_lab.{name}" for name in ml._SUBPACKAGES)]
EXPORTED = [
    f"{package}.{name}"
    for package in PACKAGES
    for name in getattr(importlib.import_module(package), "__all__", [])
]
LAZY = [package for package in PACKAGES if hasattr(importlib.import_module(package), "_WHERE")]


@pytest.mark.parametrize("package", LAZY)
def test_a_type_checker_is_told_the_names_that_are_resolved_when_first_used(package):
    module = importlib.import_module(package)
    (block,) = [
        node for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]  # fmt: skip
    told = {(name.name, name.asname, line.module) for line in block.body for name in line.names}
    base = {
        name: importlib.util.resolve_name(f".{where}", package) for name, where in module._WHERE.items()
    } | dict.fromkeys(getattr(module, "_SUBPACKAGES", ()), package)
    assert told == {(name, name, where) for name, where in base.items()}


def test_no_public_name_is_an_unknown_object_to_a_type_checker(tmp_path):
    pytest.importorskip("mypy", reason="the extra test")
    program = tmp_path / "names.py"
    lines = [f"import {package}" for package in PACKAGES] + [f"reveal_type({name})" for name in EXPORTED]
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", program],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert not run.returncode, run.stdout + run.stderr
    types = [
        line.split('Revealed type is "')[1].rstrip('"')
        for line in run.stdout.splitlines()
        if "Revealed" in line
    ]
    assert len(types) == len(EXPORTED) > 100
    # What is decorated by torch is Any here: torch's types are not read.
    unknown = [name for name, kind in zip(EXPORTED, types, strict=True) if kind == "builtins.object"]
    assert not unknown
