"""A worker's fork server, from which students' processes are forked: the grader's side of ``fork_server``."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path


class ForkServer:
    """One worker's fork server; a context manager.

    Parameters
    ----------
    slot : the worker's number: workers of a grader that runs as root have different users.
    hidden : folders that they do not see, wherever they lie.
    interpret : whether Triton runs in its interpreter.

    Attributes
    ----------
    packages : where its Python imports from.
    """

    def __init__(self, slot: int, hidden: list[Path], interpret: bool = False) -> None:
        self.hidden = [str(path) for path in hidden]
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/submission",
            "TMPDIR": "/submission",
            "TORCHINDUCTOR_CACHE_DIR": "/submission/.inductor",
            "TRITON_CACHE_DIR": "/submission/.triton",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        if interpret:
            self.environment["TRITON_INTERPRET"] = "1"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-m",
                    "multipole_lab.course.sandbox.fork_server",
                    str(theirs.fileno()),
                    str(slot),
                ],
                pass_fds=[theirs.fileno()],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the grader
            )
        self.control = ours
        ready = ours.recv(1 << 16)
        if not ready:
            raise RuntimeError("the process that students' processes come from did not start")
        self.packages: list[str] = json.loads(ready)["packages"]

    def ask(self, request: dict, fd: int | None = None) -> dict:
        """Send a request, and a file descriptor with it; returns the reply."""
        data = json.dumps(request).encode()
        socket.send_fds(self.control, [data], [] if fd is None else [fd])
        reply = self.control.recv(1 << 16)
        if not reply:
            raise RuntimeError("the process that students' processes come from has ended")
        return json.loads(reply)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
