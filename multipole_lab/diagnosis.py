"""The checks of `multipole-lab doctor`: each looks at one part of this machine and names what mends it.

A check that raises becomes a finding itself. Nothing heavy is imported before the check that needs it, so the
doctor also works where torch does not.
"""

import importlib.metadata as metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

PYTHONS = ((3, 11), (3, 13))  # the oldest and the newest that constraints.txt resolves on
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    name, found : str
        What was looked at, and what is there.
    level : str
        ``"ok"``; ``"note"``, something optional is missing; ``"warning"``, the lab runs, but slower or with
        less; ``"problem"``, the lab cannot run.
    mend : str
        The command that mends it; empty where there is nothing to mend.
    """

    name: str
    found: str
    level: str = "ok"
    mend: str = ""


def examine() -> list[Finding]:
    """Run every check on this machine, in the order in which they are read."""
    findings = []
    for check in (
        python,
        packages,
        widgets,
        device,
        attention_backends,
        triton_kernels,
        compiler,
        resources,
        browser,
    ):
        findings += _guarded(check)
    return findings


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of a check; an error inside it becomes a warning that carries the error's text."""
    try:
        return list(check())
    except Exception as error:  # a broken driver or package may raise anything at all
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Finding(check.__name__.replace("_", " "), text, "warning", _install())]


def _pip(*arguments: str) -> str:
    """Return the command that installs with this Python's own pip."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def _install(requirement: str = "multipole_lab[lab]", broken: bool = False) -> str:
    """Return the command that installs a requirement: the pinned one with make in a clone, pip elsewhere."""
    clone = Path(__file__).resolve().parents[1]
    if (clone / "Makefile").exists() and Path(sys.prefix).resolve() == clone / ".venv":
        # A broken package looks installed to pip, so everything is made anew.
        first = "make clean" if broken else "rm -f .venv/installed"
        return f"cd {shlex.quote(str(clone))} && {first} && make install"
    return _pip("--force-reinstall", requirement) if broken else _pip(requirement)


def python() -> Iterator[Finding]:
    """Python's version, and where this multipole_lab is."""
    version, (oldest, newest) = sys.version_info[:2], PYTHONS
    name = f"{platform.python_version()} at {sys.executable}"
    if version < oldest:
        yield Finding(
            "Python", f"{name}; 3.11 or newer is needed", "problem", "make clean lab PYTHON=python3.12"
        )
    elif version > newest:
        yield Finding(
            "Python", f"{name}; tested on 3.11 to 3.13", "warning", "make clean lab PYTHON=python3.13"
        )
    else:
        yield Finding("Python", name)
    yield Finding("multipole_lab", str(Path(__file__).resolve().parent))


def packages() -> Iterator[Finding]:
    """Every distribution that pyproject.toml asks for, against the range it gives."""
    # A missing package of the library or the notebooks stops the lab; the other extras are a reader's choice.
    for line in metadata.requires("multipole_lab") or []:
        need = Requirement(line)
        extra = next((e for e in ("models", "test") if need.marker and f'"{e}"' in str(need.marker)), "")
        if need.marker and not need.marker.evaluate({"extra": extra or "lab"}):
            continue
        want = f"{need.name}{need.specifier}"
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            role = f"optional, for {extra}" if extra else "needed"
            yield Finding(
                need.name, f"not installed ({role})", "note" if extra else "problem", _install(want)
            )
            continue
        if need.specifier.contains(have, prereleases=True):
            yield Finding(need.name, have)
        else:
            yield Finding(need.name, f"{have}, wanted {need.specifier}", "warning", _install(want))


def widgets() -> Iterator[Finding]:
    """The JupyterLab side of the widgets: files that JupyterLab must find, or panels stay empty."""
    from jupyter_core.paths import jupyter_path

    for package, folder in (
        ("jupyterlab-widgets", "@jupyter-widgets/jupyterlab-manager"),
        ("anywidget", "anywidget"),
    ):
        found = [path for path in jupyter_path("labextensions", folder) if Path(path).is_dir()]
        mend = _pip("--force-reinstall", "--no-deps", package)
        missing = Finding(f"widget {folder}", "JupyterLab does not find it", "problem", mend)
        yield Finding(f"widget {folder}", found[0]) if found else missing


def device() -> Iterator[Finding]:
    """Where tensors are computed: the CUDA device with its compute capability and memory, or this CPU."""
    try:
        import torch
    except Exception as error:  # a half-installed torch raises OSError as well as ImportError
        yield Finding("torch", f"does not import: {error}", "problem", _install("torch", broken=True))
        return
    cpu = f"{platform.machine()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
    yield Finding("CPU", cpu)
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        name, level = torch.cuda.get_device_name(), ".".join(map(str, capability))
        text = f"{name}, compute capability {level}, {memory:.0f} GiB"
        old = capability < (7, 5)
        yield Finding("GPU", f"{text}; Triton kernels need 7.5" if old else text, "note" if old else "ok")
    elif shutil.which("nvidia-smi") is None:
        yield Finding("GPU", "none: everything runs on the CPU")
    elif torch.version.cuda is None:
        mend = _pip("--force-reinstall", "torch", "--index-url", "https://download.pytorch.org/whl/cu130")
        yield Finding("GPU", f"there is one, but torch {torch.__version__} is a CPU build", "warning", mend)
    else:
        yield Finding("GPU", f"torch (CUDA {torch.version.cuda}) cannot use it", "warning", "nvidia-smi")


def attention_backends() -> Iterator[Finding]:
    """Which backends of scaled_dot_product_attention run here, by running them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cuda = torch.cuda.is_available()
    q = torch.randn(
        1, 2, 64, 64, device="cuda" if cuda else "cpu", dtype=torch.float16 if cuda else torch.float32
    )
    runs = []
    for backend in (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ):
        try:
            with sdpa_kernel(backend):
                torch.nn.functional.scaled_dot_product_attention(q, q, q)
            runs.append(backend.name.lower().removesuffix("_attention"))
        except RuntimeError:  # "No available kernel": this backend does not exist here
            continue
    yield Finding("exact attention", f"{', '.join(runs)} on {q.device.type}")


def triton_kernels() -> Iterator[Finding]:
    """Whether a Triton kernel compiles and runs (CUDA), or only Triton's interpreter (everywhere else)."""
    if importlib.util.find_spec("triton") is None:
        yield Finding("Triton kernels", "no triton here: the torch implementations run", "note")
        return
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    # In a process of its own: TRITON_INTERPRET is read when Triton is imported, and a crash stays there.
    code = (
        "import torch; from multipole_lab.kernels.probe import double; "
        f"x = torch.ones(300, device={place!r}); assert bool((double(x) == 2).all())"
    )
    settings = {**os.environ, "TRITON_INTERPRET": "0" if place == "cuda" else "1"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=120)
    if done.returncode == 0:
        yield Finding(
            "Triton kernels", "run" if place == "cuda" else "in the interpreter only (no CUDA device)"
        )
        return
    error = (done.stderr.strip().splitlines() or ["no message"])[-1]
    yield Finding("Triton kernels", f"do not run: {error}", "warning", _install("triton", broken=True))


def compiler() -> Iterator[Finding]:
    """The C compiler and Python's headers, with which Triton builds its launchers."""
    found = shutil.which(os.environ.get("CC", "")) or next(
        filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None
    )
    level = "warning" if shutil.which("nvidia-smi") else "note"  # without a GPU nothing is compiled
    if found is None:
        yield Finding("C compiler", "none: Triton cannot compile", level, "sudo apt-get install gcc")
    else:
        yield Finding("C compiler", found)
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        mend = f"sudo apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        yield Finding("Python headers", "no Python.h: Triton cannot compile", level, mend)


def resources() -> Iterator[Finding]:
    """Free memory, and free disk where captures and models go."""
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < 2 * GIB:
        yield Finding("memory", f"{text}; the longest contexts need 2", "warning", "close other programs")
    else:
        yield Finding("memory", text)
    text = f"{disk.free / GIB:.1f} GiB free in {Path.cwd()}"
    if disk.free < GIB:
        yield Finding("disk", f"{text}; a model needs 1", "warning", "df -h")
    else:
        yield Finding("disk", text)


def browser() -> Iterator[Finding]:
    """The Chromium that the tests of the panels drive. (JupyterLab itself is fine with any browser.)"""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        yield Finding("browser for tests", found)
    else:
        yield Finding("browser for tests", "no Chromium found", "note", "sudo apt-get install chromium")
