"""Bring a known model's files onto this machine: find or download its wheel, check every hash, unpack, convert."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

from multipole_lab.models.provenance import SOURCE_FILE
from multipole_lab.models.registry import Known
from multipole_lab.models.tensor_file import sha256

DAY = 86_400


class FetchError(RuntimeError):
    """A model's files could not be had, or are not what was pinned."""


def cache_folder() -> Path:
    """``$MULTIPOLE_LAB_CACHE``, or ``~/.cache/multipole_lab``."""
    return Path(os.environ.get("MULTIPOLE_LAB_CACHE") or Path.home() / ".cache" / "multipole_lab").expanduser()


def model_folder(known: Known) -> Path:
    """Where a known model lies once fetched; the name changes with the pinned hash."""
    return cache_folder() / "models" / f"{known.name}-{known.weights_sha256[:12]}"


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the Hugging Face hub can be reached; never waits longer than this, whatever the network does."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = []

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                answered.append(True)
        except (OSError, ValueError):
            pass

    # In a thread, because looking up a host name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def from_wheel(known: Known) -> Path:
    """The folder of a known model, made from its wheel unless it is there already.

    The folder appears under its name only when it is complete: a killed conversion leaves a hidden folder that
    the next one removes after a day.

    Raises
    ------
    FetchError
        When the wheel cannot be downloaded or has another hash than the pinned one.
    """
    folder = model_folder(known)
    if (folder / SOURCE_FILE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".*-*.partial"):
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{known.name}-", suffix=".partial"))
    try:
        made = partial / "model"
        made.mkdir()
        weights = _unpack(known, partial)
        if weights.suffix == ".gguf":
            from multipole_lab.models.convert import gguf_to_safetensors

            gguf_to_safetensors(weights, made)
        else:
            for file in weights.parent.iterdir():
                if file.is_file():
                    shutil.move(file, made / file.name)
        source = {
            "name": known.name,
            "hub_id": known.hub_id,
            "source": "wheel",
            "wheel": known.wheel,
            "wheel_sha256": known.wheel_sha256,
            "weights": known.weights,
            "weights_sha256": known.weights_sha256,
            "licence": known.licence,
        }
        (made / SOURCE_FILE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
        try:
            os.replace(made, folder)
        except OSError:  # another process was faster: its folder is as good as ours
            if not (folder / SOURCE_FILE).is_file():
                raise
        return folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(known: Known, partial: Path) -> Path:
    """The weights file with its neighbours in ``partial``, hash checked: from site-packages or from the wheel."""
    spec = importlib.util.find_spec(known.package)
    if spec is not None and spec.origin:
        installed = Path(spec.origin).parents[1] / known.weights
        if installed.is_file() and sha256(installed) == known.weights_sha256:
            shutil.copytree(installed.parent, partial / Path(known.weights).parent)
            return partial / known.weights
    placed = cache_folder() / known.wheel_file
    wheel = placed if placed.is_file() else download_wheel(known, partial)
    verify(wheel, known.wheel_sha256)
    with zipfile.ZipFile(wheel) as archive:
        prefix = str(Path(known.weights).parent) + "/"
        archive.extractall(partial, [name for name in archive.namelist() if name.startswith(prefix)])
    verify(partial / known.weights, known.weights_sha256)
    return partial / known.weights


def verify(path: Path, pinned: str) -> None:
    """Refuse a file whose SHA-256 is not the pinned one."""
    found = sha256(path)
    if found != pinned:
        raise FetchError(f"{path.name} has SHA-256 {found}, pinned is {pinned}: it is damaged or was exchanged")


def download_wheel(known: Known, folder: Path) -> Path:
    """``pip download`` with a progress bar; nothing is installed.

    Raises
    ------
    FetchError
        Without pip, or when pip could not download.
    """
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--quiet", "--retries=2", "--timeout=15"]
    # pip writes what it downloads into its temporary folder: watching that folder grow gives a bar in notebooks too.
    scratch = folder / "pip"
    scratch.mkdir()
    process = subprocess.Popen(
        [*command, "--dest", str(folder), known.wheel],
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
        raise FetchError(f"{known.wheel} could not be downloaded from PyPI: {last}")
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


def _pip() -> list[str]:
    """This Python's pip; environments made by uv have none, and any other pip downloads the same file."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        if found := shutil.which(name):
            return [found]
    raise FetchError(f"pip is needed to download a model: {sys.executable} -m ensurepip")
