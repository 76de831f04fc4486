"""Where the lab's files are: what it comes with, and what it keeps for later (models from wheels, corpora)."""

from __future__ import annotations

import importlib.resources
import os
import tempfile
from pathlib import Path

VARIABLE = "MULTIPOLE_LAB_CACHE"


def cache_folder() -> Path:
    """``$MULTIPOLE_LAB_CACHE``, or ``multipole_lab`` in ``$XDG_CACHE_HOME``, which is ``~/.cache`` by default.

    Raises
    ------
    OSError
        Where no home folder is known, as for some users of containers; the message says what to set.
    """
    if named := os.environ.get(VARIABLE):
        return Path(os.path.expanduser(named))
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):  # no HOME, and no such user in the system's list: "~" stays as it is
        raise OSError(f"there is no home folder to keep files in; name one: export {VARIABLE}=/path")
    return Path(caches) / "multipole_lab"


def make_cache_folder(part: str) -> Path:
    """Make a folder inside `cache_folder`, and see that files can be written there.

    Raises
    ------
    OSError
        When they cannot; the message says where that is, and how to name another place.
    """
    folder = cache_folder() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}); name a folder that can: export {VARIABLE}=/path"
        ) from error
    return folder


def data_folder() -> Path:
    """The lab's data: installed as ``multipole_lab.data``, or the repository's folder beside the package."""
    return shipped_folder("data")


def shipped_folder(name: str) -> Path:
    """A folder that the lab comes with, "data", "docs" or "notebooks": inside the package, or beside it."""
    try:
        return Path(str(importlib.resources.files(f"multipole_lab.{name}")))
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[1] / name
