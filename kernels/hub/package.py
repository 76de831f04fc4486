"""Writes the package: the sources as Hugging Face's kernel-builder takes them, and beside them the build that its
loader reads. Kernels in Python are not compiled ahead, so that a build is a copy with a namespace of its own."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from . import texts

NAME, MODULE, VERSION = "multipole-kernels", "multipole_kernels", 0
VARIANT = "torch-cuda"
KERNELS = Path(__file__).resolve().parents[1]
LEFT_OUT = {"hub", "report"}  # what makes the package, and what only the lab's command needs


def write_package(folder: str | Path, repo: str, release: str) -> Path:
    """Write a package to a new folder, for the Hub's repository ``repo``, of this release of the library.

    The same kernels give the same bytes. Files: ``build.toml``, ``flake.nix``, ``CARD.md``, ``tests/`` and
    ``torch-ext/`` are the sources; ``build/torch-cuda/`` is the build with its ``metadata.json``.

    Raises
    ------
    ValueError : the folder is there and not empty, or ``repo`` is no OWNER/NAME.
    """
    folder = Path(folder)
    owner, _, name = repo.partition("/")
    if not owner or not name or "/" in name:
        raise ValueError(f"repo is {repo!r}; OWNER/NAME is needed, such as 'somebody/{NAME}'")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty; name a new folder")
    sources = _sources()
    given = {"name": NAME, "version": VERSION, "repo": repo, "release": release}
    for path, text in {
        "build.toml": texts.BUILD.format(**given),
        "flake.nix": texts.FLAKE.format(**given),
        "CARD.md": texts.CARD.format(**given),
        f"tests/test_{MODULE}.py": texts.TEST.format(**given),
        **{f"torch-ext/{MODULE}/{path}": text for path, text in sources.items()},
    }.items():
        _write(folder / path, text)
    _write_build(folder / "build" / VARIANT, sources)
    return folder


def _sources() -> dict[str, str]:
    """The package's files by their path in it. Its front and its namespace are not those of this folder."""
    found = {"__init__.py": texts.FRONT}
    for path in sorted(KERNELS.rglob("*.py")):
        inside = path.relative_to(KERNELS)
        if len(inside.parts) > 1 and inside.parts[0] not in LEFT_OUT:
            found[inside.as_posix()] = path.read_text(encoding="utf-8")
    return found


def _write_build(folder: Path, sources: dict[str, str]) -> None:
    """The sources, the namespace of exactly these, and what is known of the build."""
    of_all = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
    identifier = f"_{MODULE}_cuda_{of_all[:7]}"
    files = {
        **sources,
        "_ops.py": texts.OPS.format(identifier=identifier),
        f"{MODULE}/__init__.py": texts.INNER,
    }
    for path, text in files.items():
        _write(folder / path, text)
    metadata = {
        "name": NAME,
        "id": identifier,
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cuda"},
        "digest": {
            "algorithm": "sha256",
            "files": {path: _digest(text) for path, text in sorted(files.items())},
        },
    }
    _write(folder / "metadata.json", json.dumps(metadata, indent=2) + "\n")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
