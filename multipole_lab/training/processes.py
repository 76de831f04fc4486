"""The processes of a run, as ``torchrun`` and ``accelerate launch`` name them in the environment."""

from __future__ import annotations

import os


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_group() -> None:
    """End the process group, if there is one: its threads must not outlive the interpreter, which would abort then."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()  # none leaves while another still talks to it
        dist.destroy_process_group()
