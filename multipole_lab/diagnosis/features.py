"""What a reader can do on this machine, one check for each: panels, pictures, models, the course, tests, pages."""

from __future__ import annotations

import importlib.metadata as metadata
import os
from collections.abc import Iterator
from pathlib import Path

from multipole_lab.extras import is_there

from . import probe
from .finding import Feature, clone, pip, system_package
from .packages import asked_by, missing_for

DRIVEN = ("axe-playwright-python", "playwright")  # of the extra test, what only tests in a browser need


def panels() -> Iterator[Finding]:
    """The notebooks' panels: the packages, and the files of the widgets that JupyterLab must find."""
    wanted = asked_by("lab", but=("kaleido",))
    # Without JupyterLab nobody wanted the notebooks; with it, half of what they need is a fault.
    found = missing_for("panels", wanted, "problem" if is_there("jupyterlab") else "note")
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
            fix = pip("--force-reinstall", "--no-deps", package)
            yield Feature("panels", f"JupyterLab does not find {folder}", "problem", fix)
            return
    if not found:
        version = metadata.version("jupyterlab")
        yield Feature("panels", f"live in JupyterLab {version}, with any browser, here or elsewhere")


def pictures() -> Iterator[Finding]:
    """What a panel leaves in a notebook for readers without widgets: kaleido draws it with a browser."""
    found = missing_for("pictures of panels", asked_by("lab", only=("kaleido",)))
    yield from found
    if not any(finding.level == "note" for finding in found):
        yield from _browser("pictures of panels", "drawn by", "panels are live all the same, and leave words")


def _browser(feature: str, use: str, without: str) -> Iterator[Finding]:
    """Whether a Chromium or Chrome is here that starts."""
    from multipole_lab.figures.common.browser import find_browser

    path = find_browser()
    error = probe.trial([path, "--version"]) if path else ""
    if path and not error:
        yield Feature(feature, f"{use} {path}")
        return
    found = f"{path} does not start: {error}" if path else "no Chromium or Chrome"
    fix = system_package(
        apt_get="chromium", dnf="chromium", pacman="chromium", zypper="chromium", brew="--cask google-chrome"
    )
    yield Feature(feature, f"{found}; {without}", "note", fix)


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
    found = missing_for("models from wheels", asked_by("models"))
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


def course() -> Iterator[Finding]:
    """Assignments: students need the library alone, instructors the packages and the master notebooks."""
    found = missing_for("course, instructors", asked_by("course"))
    yield from found
    if clone() is None:
        text = "the master notebooks are in the repository; name their folder: --masters DIR"
        yield Feature("course, instructors", text, "note", "multipole-lab course release --help")
    elif not found:
        yield Feature("course, instructors", "release, grade and report")


def tests() -> Iterator[Finding]:
    """What `make test` needs, without the tests in a browser."""
    found = missing_for("tests", asked_by("test", but=DRIVEN))
    yield from found
    if not found:
        yield Feature("tests", "make test" if clone() else "are in the repository")


def browser_tests() -> Iterator[Finding]:
    """The tests that drive a JupyterLab in a browser; without them `make test` skips those."""
    found = missing_for("tests in a browser", asked_by("test", only=DRIVEN))
    yield from found
    if not found:
        yield from _browser("tests in a browser", "drive", "make test skips them")


def pages() -> Iterator[Finding]:
    """The notebooks and the reference as web pages, and the tour as an app."""
    found = missing_for("make docs, make app", asked_by("docs"))
    yield from found
    if not found:
        yield Feature("make docs, make app", "ready" if clone() else "are in the repository")
