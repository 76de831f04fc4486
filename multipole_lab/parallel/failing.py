"""One rank that fails ends all, in time and with its reason: they watch each other through the group's store.

A process that waits in a collective may wait for ever: NCCL's kernels do not notice that a partner has gone, and a rank
that computes notices nothing. So a thread beside each says that its process is alive, and looks at what the others say.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch.distributed as dist

ENDED = 3  # the status of a process that another's failure ended
GRACE = 2.0  # seconds for an error of one's own, which says more
PREFIX = "multipole_lab/failing"


@contextmanager
def failing_together(limit: float, note: Path | None = None) -> Iterator[None]:
    """Within it, a rank that raises, or whose process is killed or stopped, ends the processes of all ranks.

    All ranks enter it, once the default process group exists. A rank that is alive and silent is the group's own time
    limit's business: whoever waits for it raises.

    Parameters
    ----------
    limit : seconds without a sign of life after which a rank counts as dead.
    note : a file for the reason, for whoever started the processes; None for none. It is on stderr, too.
    """
    watch = _Watch(limit, note)
    watch.start()
    try:
        yield
    except BaseException as error:
        watch.tell(f"rank {watch.rank}: {type(error).__name__}: {error}")
        raise
    finally:
        watch.leave()


class _Watch(threading.Thread):
    def __init__(self, limit: float, note: Path | None) -> None:
        super().__init__(name="failing together", daemon=True)
        self.limit, self.note = limit, note
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        # A connection of its own: the group's may be waiting for a message.
        self.store = dist.PrefixStore(PREFIX, dist.distributed_c10d._get_default_store().clone())
        self.over = threading.Event()

    def run(self) -> None:
        began, heard, beats = time.monotonic(), {}, 0
        while not self.over.wait(min(0.5, self.limit / 4)):
            try:
                beats += 1
                self.store.set(f"beat {self.rank}", str(beats))
                reason = self.look(began, heard)
            except RuntimeError as error:  # the store went with the rank that kept it
                reason = f"the ranks' store is gone, and with it the first rank ({error})"
            if reason is not None and not self.over.wait(GRACE):
                self.end(reason)

    def look(self, began: float, heard: dict[int, tuple[str, float]]) -> str | None:
        """What another rank said of its failure, or which one says nothing any more; None while all is well."""
        if self.store.check(["failed"]):
            return self.store.get("failed").decode()
        now = time.monotonic()
        for other in range(self.ranks):
            said = self.store.get(f"beat {other}").decode() if self.store.check([f"beat {other}"]) else ""
            if said != heard.get(other, ("", began))[0]:
                heard[other] = said, now
            if said != "done" and now - heard.get(other, ("", began))[1] > self.limit:
                return f"rank {other} has given no sign of life for {self.limit:g} s: it was killed, or is stopped"
        return None

    def tell(self, reason: str) -> None:
        """Say why this rank fails; the first reason stays."""
        with suppress(RuntimeError):  # nobody is left to be told
            if not self.store.check(["failed"]):
                self.store.set("failed", reason)
                if self.note is not None:
                    self.note.write_text(reason, encoding="utf-8")

    def leave(self) -> None:
        """End the watch, and let the others know that this is no death."""
        self.over.set()
        self.join()
        with suppress(RuntimeError):  # nobody is left to be told
            self.store.set(f"beat {self.rank}", "done")

    def end(self, reason: str) -> None:
        """End this process, wherever its other threads are."""
        print(
            f"rank {self.rank} of {self.ranks} ends, for another one failed: {reason}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(ENDED)
