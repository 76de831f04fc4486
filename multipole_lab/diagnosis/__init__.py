"""The checks of `multipole-lab doctor`: each looks at one thing on this machine and names what fixes it.

Nothing heavy is imported before the check that needs it, so the doctor also works where torch does not. A check that
raises becomes a finding itself, and so does one that does not end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from . import computing, features, machine, packages
from .finding import Finding, install

SECONDS = 180.0
CHECKS = (
    machine.python,
    machine.folders,
    machine.cpu,
    machine.gpu,
    machine.compiler,
    machine.resources,
    computing.library,
    computing.exact_attention,
    computing.triton_kernels,
    computing.compiling,
    features.panels,
    features.pictures,
    features.models_from_the_hub,
    features.models_from_wheels,
    computing.training,
    computing.processes,
    features.course,
    features.tests,
    features.browser_tests,
    features.pages,
    packages.versions,
)

__all__ = ["CHECKS", "Finding", "examine"]


def examine(seconds: float = SECONDS) -> list[Finding]:
    """Run every check on this machine, and return the findings in the order in which they are read.

    Parameters
    ----------
    seconds : for all checks together. One that has not ended by then is a warning, and each later one gets a few more.
    """
    end = time.monotonic() + seconds
    return [
        finding for check in CHECKS for finding in bounded(check, max(seconds / 30, end - time.monotonic()))
    ]


def bounded(check: Callable[[], Iterator[Finding]], seconds: float) -> list[Finding]:
    """Return the findings of a check; an error inside it, or its silence, becomes a warning."""
    name, found = check.__name__.replace("_", " "), []

    def look() -> None:
        try:
            found.extend(check())
        except Exception as error:  # a broken driver or package may raise anything at all
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            found.append(Finding(name, text, "warning", install()))

    # In a thread, because a driver that does not answer cannot be interrupted.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    return list(found) if not thread.is_alive() else [
        *found, Finding(name, f"no answer within {seconds:.0f} s", "warning", "multipole-lab doctor")
    ]  # fmt: skip
