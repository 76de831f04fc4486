"""The processes of a run, as ``torchrun`` and ``accelerate launch`` name them in the environment."""

from __future__ import annotations

import os

from multipole_lab import extras


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def meet(device: str) -> None:
    """Wait until every process has come this far; ``device`` is what they train on."""
    if world_size() > 1:
        extras.require("training", "models", "accelerate")
        from accelerate import PartialState

        PartialState(cpu=device == "cpu").wait_for_everyone()


def end_group(status: int) -> None:
    """End this process with ``status`` if it belongs to a group; return if it runs alone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        from multipole_lab.parallel.launch import leave_and_end

        leave_and_end(status)
