"""Notebooks are committed without outputs and execution counts: diffs stay small, pictures never stale."""

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
