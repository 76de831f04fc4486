"""A rank of tests/parallel/test_parallel_failing.py: importable by name, as its process is a new one."""

import os
import signal
import time

import torch
import torch.distributed as dist

import multipole_lab as ml
from multipole_lab.parallel import ContextParallel


def fail(way):
    """Rank 1 fails in a way; rank 0 computes and asks nobody, rank 2 waits for the others in an exchange."""
    rank = dist.get_rank()
    dist.barrier()
    if rank == 1:
        if way == "memory":
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        if way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)
    if rank == 2:
        x = torch.randn(1, 1, 16, 8)
        ContextParallel(ml.MuSe(clusters=2))(x, x, x)
    time.sleep(120)
