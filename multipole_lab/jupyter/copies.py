"""Copies of the notebooks and pages for a reader, whose own work they never replace. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multipole_lab import files, folders

SHIPPED = {"notebooks": ("*.ipynb", "images/*.svg"), "docs": ("*.md", "guides/*.md")}


@dataclass(frozen=True)
class Copied:
    """What `copy_notebooks` did; every name is relative to the reader's folder.

    Attributes
    ----------
    new : files that were written. same : files that were there and are what this version ships.
    kept : files that were there, differ from what this version ships, and stayed as they are.
    """

    new: tuple[str, ...]
    same: tuple[str, ...]
    kept: tuple[str, ...]


def copy_notebooks(folder: str | Path) -> Copied:
    """Copy the notebooks, their images and the pages that they lead to; a file that is there stays as it is.

    Parameters
    ----------
    folder : where to; made where it is not there. It gets ``notebooks/`` and ``docs/``, as the repository has them, so
        that links between them lead somewhere.

    Raises
    ------
    OSError : something in the way is no folder, or cannot be written; the error names it.
    """
    folder = Path(folder)
    done: dict[str, list[str]] = {"new": [], "same": [], "kept": []}
    for part, patterns in SHIPPED.items():
        source = folders.shipped_folder(part)
        for file in sorted(path for pattern in patterns for path in source.glob(pattern)):
            name = Path(part, file.relative_to(source))
            done[_copy(file, folder / name)].append(name.as_posix())
    return Copied(**{how: tuple(names) for how, names in done.items()})


def _copy(source: Path, target: Path) -> str:
    """Copy one file where none is; "new", "same" or "kept"."""
    text = source.read_bytes()
    if target.exists():
        return "same" if target.is_file() and target.read_bytes() == text else "kept"
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(target) as partial:
        partial.write_bytes(text)
    return "new"
