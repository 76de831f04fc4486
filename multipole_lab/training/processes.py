"""The processes of a run, as ``torchrun`` and ``accelerate launch`` name them in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from multipole_lab import extras

if TYPE_CHECKING:
    from torch import nn

    from multipole_lab.attention.muse import MuSe


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


@contextmanager
def together(device: str, limit: float) -> Iterator[None]:
    """Within it, all processes of the run are one group: a failure of one ends all, see ``failing_together``.

    Parameters
    ----------
    device : what they train on. limit : seconds without a sign of life, or without an answer to a message, after which
        a process counts as dead.
    """
    if world_size() == 1:
        yield
        return
    extras.require("training", "models", "accelerate")
    from accelerate import PartialState

    from multipole_lab.parallel.failing import failing_together

    state = PartialState(cpu=device == "cpu", timeout=timedelta(seconds=limit))
    with failing_together(limit):
        state.wait_for_everyone()
        yield


def end_group(status: int) -> None:
    """End this process with ``status`` if it belongs to a group; return if it runs alone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        from multipole_lab.parallel.launch import leave_and_end

        leave_and_end(status)


def check_parts(parts: int, processes: int) -> None:
    """Whether so many processes can share sequences in so many parts.

    Raises
    ------
    ValueError : they are no multiple of it.
    """
    if parts < 1 or processes % parts:
        raise ValueError(
            f"context_parallel is {parts}, with {processes} process{'es' * (processes > 1)}; a divisor of their number "
            "is needed: start them with torchrun --standalone --nproc-per-node 2 -m multipole_lab.cli train "
            "--context-parallel 2 ..."
        )


@contextmanager
def attention_in_parts(
    model: nn.Module, method: MuSe | None, layers: tuple[int, ...], parts: int, limit: float
) -> Iterator[None]:
    """Within it, the model attends over whole sequences: MuSe in its layers, ring attention in all others.

    Every process of the run must enter it together. ``limit`` is in seconds, see ``together``.

    Raises
    ------
    TypeError : a method other than MuSe.
    """
    import torch.distributed as dist

    from multipole_lab.parallel import ContextParallel, RingAttention

    group = None
    for first in range(0, world_size(), parts):  # every process takes part in making every group
        made = dist.new_group(range(first, first + parts), timeout=timedelta(seconds=limit))
        group = made if first <= rank() < first + parts else group
    ring = RingAttention(group)
    chosen = dict.fromkeys(range(model.config.num_hidden_layers), ring)
    if method is not None:
        chosen |= dict.fromkeys(layers, ContextParallel(method, group))
    with ring.on(model, chosen, strict=True):
        yield
