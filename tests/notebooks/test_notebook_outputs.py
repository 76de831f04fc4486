"""Notebooks are committed without outputs and execution counts: diffs stay small, pictures never stale."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = [path for path in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ran = [i for i, cell in enumerate(notebook.cells) if cell.get("outputs") or cell.get("execution_count")]
    assert not ran, f"cells {ran} of {path.name} have outputs: run `make strip`"
    assert "widgets" not in notebook.metadata, f"{path.name} holds widget state: run `make strip`"


@pytest.mark.parametrize("place", ["Makefile", ".pre-commit-config.yaml"])
def test_stripping_leaves_a_stripped_notebook_as_it_is(place, tmp_path):
    (options,) = re.findall(
        r"python -m nbstripout((?: --[\w-]+)*)", (ROOT / place).read_text(encoding="utf-8")
    )
    copies = {Path(shutil.copy(path, tmp_path)): path.read_bytes() for path in NOTEBOOKS}
    subprocess.run([sys.executable, "-m", "nbstripout", *options.split(), *copies], check=True, timeout=120)
    assert [copy.name for copy, before in copies.items() if copy.read_bytes() != before] == []
