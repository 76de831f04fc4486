"""How many processor threads torch uses, for work that is too small to share out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block.

    One head of a few thousand tokens takes some ten milliseconds in hundreds of small steps. Sharing each
    step out gains little, and costs ten times as much on a computer whose other cores are busy: every step
    then waits for a thread that has no core to run on.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
