"""A line of the doctor's report, and the commands that stand in it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    name, found : str
        What was looked at, and what is there.
    level : str
        ``"ok"``; ``"note"``, something optional is missing; ``"warning"``, it works, but worse than it could;
        ``"problem"``, it does not work.
    fix : str
        The command that fixes it; empty where there is nothing to fix.
    part : str
        ``"machine"``; ``"feature"``, something that a reader may want to do here; ``"package"``.
    """

    name: str
    found: str
    level: str = "ok"
    fix: str = ""
    part: str = "machine"


Feature = partial(Finding, part="feature")


def clone() -> Path | None:
    """The repository that this library is installed from in editable mode; None for an installed wheel."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "Makefile").is_file() and (folder / "notebooks").is_dir() else None


def pip(*arguments: str) -> str:
    """The command that installs with this Python's own pip, which is first made where there is none."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def install(extra: str = "", *packages: str, broken: bool = False) -> str:
    """The command that installs an extra, or these packages of it: the pinned ones by make in a clone's .venv."""
    home = clone()
    if home is not None and Path(sys.prefix).resolve() == home / ".venv":
        if extra == "docs":
            return f"{_into(home)}make docs"
        # A broken package looks installed to pip, so everything is installed again.
        return f"{_into(home)}{'make clean install' if broken else 'rm -f .venv/installed && make install'}"
    wanted = packages or (f"multipole_lab[{extra}]" if extra else "multipole_lab",)
    return pip("--force-reinstall", *wanted) if broken else pip(*wanted)


def _into(folder: Path) -> str:
    return "" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && "


def system_package(**names: str) -> str:
    """The command that installs a package of the system, by the first package manager that is here.

    Parameters
    ----------
    names : the package's name for each manager, as in ``apt_get="chromium", dnf="chromium"``.
    """
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    verbs = {
        "apt_get": "apt-get install",
        "dnf": "dnf install",
        "pacman": "pacman -S",
        "zypper": "zypper install",
    }
    for manager, verb in verbs.items():
        if manager in names and shutil.which(verb.split()[0]):
            return f"{sudo}{verb} {names[manager]}"
    if "brew" in names and shutil.which("brew"):
        return f"brew install {names['brew']}"
    return f"{sudo}{verbs['apt_get']} {names['apt_get']}"
