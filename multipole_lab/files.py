"""Files that a crash leaves whole: written beside their place and then moved there, or JSON lines only added to.

Imports nothing heavy. Whatever is written is on the disk before its name says so: a name that outlives a power cut
must not stand for an empty file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO


def check_path(name: str, value: object) -> None:
    """Refuse what is no path and no name with a TypeError."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} is {value!r}; a name or a path is needed")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A passing name beside ``path`` to write to; what was written stands in its place when the block ends.

    A reader sees the old file or the new one. Where the block raises, the old one stays and the passing one goes.

    Parameters
    ----------
    path : the file; its folder must be there. A link is followed. What is no file, /dev/stdout, is written directly.

    Raises
    ------
    FileNotFoundError : the folder is not there.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        yield partial
        _to_disk(partial)
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: str | Path, text: str) -> None:
    """Write a text, UTF-8 and as it is, so that a reader sees all of it or what was there before."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def new_folder(path: str | Path, is_whole: Callable[[Path], bool] = lambda path: False) -> Iterator[Path]:
    """An empty folder beside ``path`` to fill; it stands under that name when the block ends.

    Where the block raises, it is removed. A killed process leaves it as ``.<name>-<letters>.partial``.

    Parameters
    ----------
    path : the folder; the one around it must be there. None of that name, or an empty one, may be there at the end.
    is_whole : asked where there is one: whether another process was faster and its folder is as good.

    Raises
    ------
    OSError : there is one already, and it is not whole.
    """
    path = Path(path)
    around = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent))
    new = around / path.name  # mkdtemp's own folder is closed to everybody else
    try:
        new.mkdir()
        yield new
        for file in filter(Path.is_file, new.rglob("*")):
            _to_disk(file)
        try:
            os.replace(new, path)
        except OSError:
            if not is_whole(path):
                raise
    finally:
        shutil.rmtree(around, ignore_errors=True)


class JsonLines:
    """A file of JSON objects, one a line, that is only added to.

    A last line without its end, which a kill left or another process is writing, counts as not there. As a context
    manager it is the only writer until its end.

    Parameters
    ----------
    path : the file. It is made when something is added, and its folder when the block begins.

    Raises
    ------
    BlockingIOError : when the block begins, where another process, or another block of this one, is the writer.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO | None = None

    def __enter__(self) -> JsonLines:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        try:
            _lock(file)
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        file, self._file = self._file, None
        file.close()

    def add(self, entry: Mapping[str, object]) -> None:
        """Add a line; it is on the disk when this returns."""
        with self.path.open("ab") if self._file is None else contextlib.nullcontext(self._file) as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[dict]:
        """All whole lines; none where there is no file.

        Raises
        ------
        ValueError : a line that is no JSON object; its number is named.
        """
        found = []
        for number, line in enumerate(self._whole().splitlines(), 1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number} is no JSON: {error}") from None
            if not isinstance(entry, dict):
                raise ValueError(f"{self.path}, line {number} is no JSON object")
            found.append(entry)
        return found

    def begins_with(self, text: str) -> bool:
        """Whether the file begins with this text, as far as either goes: so does an empty one."""
        raw, start = self._raw(), text.encode()
        return raw[: len(start)] == start[: len(raw)]

    def drop_unfinished_line(self) -> None:
        """Cut off a last line without its end, so that the next one begins a line."""
        os.truncate(self.path, len(self._whole()))

    def keep(self, wanted: Callable[[dict], bool]) -> None:
        """Keep only some lines, and no unfinished one; not for use inside the block, whose file it would replace."""
        write(self.path, "".join(json.dumps(entry) + "\n" for entry in self.entries() if wanted(entry)))

    def _raw(self) -> bytes:
        return self.path.read_bytes() if self.path.is_file() else b""

    def _whole(self) -> bytes:
        raw = self._raw()
        return raw[: raw.rfind(b"\n") + 1]


def _lock(file: BinaryIO) -> None:
    import fcntl  # not on Windows, where the rest of this module works

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _to_disk(path: Path) -> None:
    with path.open(
        "r+b" if os.name == "nt" else "rb"
    ) as file:  # a file made read-only can be synchronized too
        os.fsync(file.fileno())
