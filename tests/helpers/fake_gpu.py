"""A GPU that is there by name only: whatever is computed on the CPU must not bear its name."""

import torch

NAME = "NVIDIA Fake"


def pretend(monkeypatch) -> None:
    """Let torch find a GPU of compute capability 9.0 that nothing can run on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: NAME)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
