"""Where text comes from: the user's own Python, a folder, or PG-19."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

Document = tuple[str, str]  # name, text

# Fewer bytes than that are no document to learn from: an empty __init__.py, say.
SHORTEST = 200


def documents(source: str, megabytes: float | None = None) -> Iterator[Document]:
    """Documents of a source, in an order that depends on their names alone.

    Parameters
    ----------
    source : "python" for the standard library's source and the topics of ``help()`` of this Python, "pg19" for
        Project Gutenberg's books through ``datasets`` (needs the network), or a folder: every file in it that is UTF-8
        text, hidden ones left out.
    megabytes : stop after that much text.

    Raises
    ------
    ValueError : for a folder that does not exist, or holds no text.
    ModuleNotFoundError : for "pg19" without the package ``datasets``.
    """
    if source == "python":
        found = _python()
    elif source == "pg19":
        found = _pg19()
    else:
        found = _folder(Path(source).expanduser())
    left = None if megabytes is None else megabytes * 1e6
    none = True
    for name, text in found:
        if len(text) < SHORTEST:
            continue
        none = False
        yield name, text
        if left is not None:
            left -= len(text.encode())
            if left <= 0:
                return
    if none:
        raise ValueError(
            f"data is {source!r}, in which there is no text file of {SHORTEST} characters or more"
        )


def is_heldout(name: str, seed: int, share: float = 0.05) -> bool:
    """Whether a document is held out: decided by its name, so that no part of it is ever trained on."""
    return int.from_bytes(_digest(f"{seed}/{name}")[:8]) < share * 2**64


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="replace")).digest()


def _python() -> Iterator[Document]:
    from pydoc_data.topics import topics

    root = Path(sysconfig.get_paths()["stdlib"])
    others = {"site-packages", "dist-packages", "__pycache__"}
    files = [path for path in root.rglob("*.py") if not others & set(path.relative_to(root).parts)]
    names = {f"topic/{name}": text for name, text in topics.items()}
    names |= {path.relative_to(root).as_posix(): path for path in files}
    yield from _shuffled(names)


def _folder(root: Path) -> Iterator[Document]:
    if not root.is_dir():
        raise ValueError(
            f"data is {str(root)!r}, which is no folder; allowed are 'python', 'pg19' and a folder of text"
        )
    files = (path for path in root.rglob("*") if path.is_file())
    shown = (path for path in files if not any(p.startswith(".") for p in path.relative_to(root).parts))
    yield from _shuffled({path.relative_to(root).as_posix(): path for path in shown})


def _shuffled(names: dict[str, str | Path]) -> Iterator[Document]:
    """By the hash of the name: a part of the text is then a fair sample of it, and the same one every time."""
    for name in sorted(names, key=_digest):
        found = names[name]
        text = _read(found) if isinstance(found, Path) else found
        if text is not None:
            yield name, text


def _read(path: Path) -> str | None:
    """The text of a file; None for what is no UTF-8 text or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            return (
                None if b"\0" in head else (head + file.read()).decode()
            )  # a library of gigabytes is not read
    except (OSError, UnicodeDecodeError):
        return None


def _pg19() -> Iterator[Document]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("data is 'pg19', which needs a package: pip install datasets") from error

    for split in ("validation", "test", "train"):
        for row in datasets.load_dataset("emozilla/pg19", split=split, streaming=True):
            yield f"{split}/{row['short_book_title']}/{row['publication_date']}", row["text"]
