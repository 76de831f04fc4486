"""What this machine has: Python, folders, processors, a compiler, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from multipole_lab.folders import VARIABLE, cache_folder

from .finding import Finding, install, pip, system_package

PYTHONS = ((3, 11), (3, 14))  # the oldest and the newest that constraints.txt resolves on
GIB = 2**30
MEMORY = 2.0  # GiB


def python() -> Iterator[Finding]:
    """Python's version, and where this multipole_lab is."""
    version, (oldest, newest) = sys.version_info[:2], PYTHONS
    name = f"{platform.python_version()} at {sys.executable}"
    known = f"{'.'.join(map(str, oldest))} to {'.'.join(map(str, newest))}"
    if version < oldest:
        fix = "make clean install PYTHON=python3.12"
        yield Finding("Python", f"{name}; the library needs {known}", "problem", fix)
    elif version > newest:
        fix = "make clean install PYTHON=python3.13"
        yield Finding("Python", f"{name}; packages are pinned for {known}", "warning", fix)
    else:
        yield Finding("Python", name)
    yield Finding("multipole_lab", str(Path(__file__).resolve().parents[1]))


def folders() -> Iterator[Finding]:
    """The home folder, and the one that models and corpora are kept in."""
    home = os.path.expanduser("~")
    if not os.path.isabs(home) or not os.path.isdir(home):
        found = f"there is none ({home if os.path.isabs(home) else 'HOME is not set'})"
        yield Finding("home folder", f"{found}; JupyterLab forgets its settings", "note", "export HOME=/path")
    elif not _writable(home):
        yield Finding(
            "home folder",
            f"{home} cannot be written; JupyterLab forgets its settings",
            "note",
            "export HOME=/path",
        )
    else:
        yield Finding("home folder", home)
    try:
        kept = cache_folder()
    except OSError:
        kept = None
    if kept is None or not _writable(kept):
        place = "there is no place for them" if kept is None else f"{kept} cannot be written"
        yield Finding("models are kept", place, "note", f"export {VARIABLE}=/path")
    else:
        yield Finding("models are kept", f"in {kept}")


def _writable(folder: str | Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that is there, by making one."""
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place):
            return True
    except OSError:
        return False


def cpu() -> Iterator[Finding]:
    """The processor, its cores, and how many of them this process may use."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = f" of {os.cpu_count()}" if mine != os.cpu_count() else ""
    yield Finding("CPU", f"{platform.machine()}, {mine}{shared} core{'s' * (mine != 1)}")


def gpu() -> Iterator[Finding]:
    """The CUDA device with its compute capability and memory, or why there is none."""
    here = shutil.which("nvidia-smi") is not None
    try:
        import torch
    except Exception:  # a half-installed torch raises OSError as well as ImportError; `library` reports it
        yield Finding("GPU", "unknown: torch cannot be imported", "note", install("", "torch", broken=True))
        return
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        name, level = torch.cuda.get_device_name(), ".".join(map(str, capability))
        old = capability < (7, 5)
        text = f"{name}, compute capability {level}, {memory:.0f} GiB"
        more = "; Triton kernels need 7.5, the torch implementations run" if old else ""
        yield Finding("GPU", text + more, "note" if old else "ok")
    elif not here:
        yield Finding("GPU", "none: everything runs on the CPU")
    elif torch.version.cuda is None:
        fix = pip("--force-reinstall", "torch", "--index-url", "https://download.pytorch.org/whl/cu130")
        yield Finding("GPU", f"there is one, but torch {torch.__version__} is a CPU build", "warning", fix)
    else:
        yield Finding("GPU", f"torch (CUDA {torch.version.cuda}) cannot use it", "warning", "nvidia-smi")


def compiler() -> Iterator[Finding]:
    """The C compiler and Python's headers, with which Triton builds its launchers."""
    found = shutil.which(os.environ.get("CC", "")) or next(
        filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None
    )
    gpu_here = shutil.which("nvidia-smi") is not None
    level = "warning" if gpu_here else "note"
    what = "Triton cannot compile" if gpu_here else "not needed without a GPU"
    if found is None:
        fix = system_package(apt_get="gcc", dnf="gcc", pacman="gcc", zypper="gcc")
        yield Finding("C compiler", f"none: {what}", level, fix)
    else:
        yield Finding("C compiler", found)
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        fix = system_package(apt_get=f"{minor}-dev", dnf=f"{minor}-devel", zypper=f"{minor}-devel")
        yield Finding("Python headers", f"no Python.h: {what}", level, fix)


def resources() -> Iterator[Finding]:
    """Free memory, and free disk where captures and models go."""
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < MEMORY * GIB:
        yield Finding(
            "memory", f"{text}; the longest contexts need {MEMORY:.0f}", "warning", "close other programs"
        )
    else:
        yield Finding("memory", text)
    text = f"{disk.free / GIB:.1f} GiB free in {Path.cwd()}"
    if disk.free < GIB:
        yield Finding("disk", f"{text}; a model needs 1", "warning", "df -h")
    else:
        yield Finding("disk", text)
