"""Triton decides when it is imported whether kernels are interpreted: without a GPU they are."""

import importlib.util
import os

import pytest
import torch
from browsing import pytest_terminal_summary  # noqa: F401, for pytest
from surroundings import checked_shapes, quick_interpreter

checked_shapes.install(
    "multipole_lab.attention",
    "multipole_lab.clustering",
    "multipole_lab.decoding",
    "multipole_lab.parallel",
    "multipole_lab.testing",
)

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if importlib.util.find_spec("triton"):
        quick_interpreter.install()


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that torch hands out uninitialised is full of NaN (or -77), so that a missing write shows."""

    def poison(make):
        def empty(*args, **kwargs):
            x = make(*args, **kwargs)
            if x.device.type == "meta":
                return x
            return x.fill_(float("nan") if x.is_floating_point() else -77)

        return empty

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))


@pytest.fixture(scope="session")
def fork_server():
    """The process that students' processes come from; what an instructor keeps hidden is hidden from it."""
    from multipole_lab.course.grading import notebook
    from multipole_lab.course.sandbox.session import ForkServer, library_paths

    with ForkServer(0, [notebook.masters_folder(), library_paths()[1][0]]) as one:
        yield one


@pytest.fixture(scope="session")
def interpreter():
    """The same for kernels, which run in Triton's interpreter."""
    from multipole_lab.course.sandbox.session import ForkServer

    with ForkServer(0, [], True) as one:
        yield one


@pytest.fixture
def grade(fork_server, tmp_path, monkeypatch):
    """Grade one submission; see `submissions.grader`."""
    from submissions import grader

    return grader(fork_server, tmp_path, monkeypatch)
