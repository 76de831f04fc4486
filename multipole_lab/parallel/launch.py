"""Several processes on this computer, that talk over its own loopback interface: for tests, timings and lessons."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

from multipole_lab.clustering.checks import check_count
from multipole_lab.parallel.failing import failing_together
from multipole_lab.suggesting import suggesting

NOTE = "reason.txt"


@suggesting
def launch(
    function: Callable[..., None], ranks: int, *args: object, limit: float = 300.0, threads: int = 1
) -> None:
    """Run ``function(*args)`` in ``ranks`` new processes that form one gloo group, and wait for them.

    For more than one computer, or GPUs, use torchrun.

    Parameters
    ----------
    function : importable by name, as the processes are new ones.
    ranks : processes, at least 1.
    limit : seconds that a rank waits for another's answer, or for a sign of its life; where one fails, dies or is
        stuck, all end within it, see ``failing_together``.
    threads : of torch in each process.

    Raises
    ------
    torch.multiprocessing.spawn.ProcessException : a process failed, with its traceback; the others are ended. Its note
        is the first reason that a rank gave.
    """
    check_count("ranks", ranks, 1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            mp.spawn(join_and_run, (ranks, folder, limit, threads, function, args), nprocs=ranks)
        except ProcessException as error:
            if (note := Path(folder) / NOTE).is_file():
                error.add_note(note.read_text(encoding="utf-8"))
            raise


def join_and_run(
    rank: int, ranks: int, folder: str, limit: float, threads: int, function: Callable[..., None], args: tuple
) -> None:
    """One process of ``launch``: joins the group that meets in ``folder``, runs, and leaves it."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    torch.set_num_threads(threads)
    # A store of its own: as an address, torch looks for a folder named %20 where there is a space.
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=limit)
    )
    with failing_together(limit, Path(folder) / NOTE):
        function(*args)
    leave_and_end(0)


def leave_and_end(status: int) -> NoReturn:
    """Leave the process group and end this process with ``status``, where it stands.

    At the interpreter's own end threads of gloo may still be at work, even of a group that was destroyed, and end
    the process by an abort.
    """
    dist.barrier()  # none leaves while another still talks to it
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
