"""A GPU that is there by name only: what the CPU computes must not bear its name, and waits for it are counted."""

import contextlib
import traceback
from types import SimpleNamespace
from unittest import mock

import torch

NAME = "NVIDIA Fake"


def pretend(monkeypatch) -> None:
    """Let torch find a GPU of compute capability 9.0 that nothing can run on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: NAME)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    properties = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)


# ``numpy`` is not among them: of a device's tensor it raises, of the host's it waits for nothing.
READS = (
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "unique",
    "masked_select", "bincount", "equal",
)  # fmt: skip
FUNCTIONS = ("nonzero", "bincount", "unique", "equal", "masked_select", "argwhere")


@contextlib.contextmanager
def host_reads(found):
    """Append "what at where" to the list ``found`` for every read of a tensor by the library inside the context."""

    def counted(name, function):
        def call(*args, **kwargs):
            frames = [f for f in traceback.extract_stack() if "multipole_lab/" in f.filename]
            if frames and not any("triton/" in f.filename for f in traceback.extract_stack()):
                found.append(f"{name} at {frames[-1].filename}:{frames[-1].lineno}")
            return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for owner, names in ((torch.Tensor, READS), (torch, FUNCTIONS), (torch.cuda, ("synchronize",))):
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, counted(name, getattr(owner, name))))
        yield
