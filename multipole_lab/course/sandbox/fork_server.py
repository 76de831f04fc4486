"""The process that students' processes are forked from: it has imported torch, so that each starts in milliseconds.

It is started as ``python -I -m multipole_lab.course.sandbox.fork_server FD SLOT`` with an empty environment, and knows
nothing: no questions, no tests, no paths but those it is sent. Over the control socket come two requests, ``start``
(with the socket of a session) and ``end``; one student process lives at a time. When the grader is gone, so are both.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile

import psutil

from multipole_lab.course.sandbox import walls as sandbox
from multipole_lab.course.sandbox.walls import Limits


def main(control_fd: int, slot: int) -> None:
    """Serve requests until the grader closes the control socket."""
    control = socket.socket(fileno=control_fd)
    sandbox.adopt_orphans()
    _import_early()
    sandbox.remember_address_space()
    control.send(json.dumps({"packages": _packages()}).encode())
    child = None
    try:
        while True:
            data, fds, *_ = socket.recv_fds(control, 1 << 16, 1)
            ended = _end(child) if child else None
            child = None
            if not data:
                return
            request = json.loads(data)
            if request["do"] == "start":
                reply = child = _start(request, control, fds[0], slot)
                os.close(fds[0])
            else:
                reply = {"ended": ended}
            control.send(json.dumps(reply).encode())
    finally:  # the grader may be gone before it has its reply
        if child:
            _end(child)


# Folders of the repository that travel in the wheel and hold nothing to import; in a checkout solutions lie among them.
_FOR_READERS = {"multipole_lab.docs", "multipole_lab.notebooks"}


def _packages() -> list[str]:
    """Where packages are imported from, also outside the folders of Python: .pth files, editable installs."""
    editable = [
        path
        for name, module in sys.modules.items()
        if name.startswith("__editable__")
        for package, path in getattr(module, "MAPPING", {}).items()
        if package not in _FOR_READERS
    ]
    return [path for path in (*sys.path, *editable) if os.path.exists(path)]


def _import_early() -> None:
    """Import and touch what students use; with one thread, for threads do not survive a fork."""
    import numpy  # noqa: F401
    import torch

    from multipole_lab.course.sandbox import student  # noqa: F401

    torch.set_num_threads(1)
    x = torch.ones(4, 4)
    (x @ x).softmax(-1).sum()
    if os.environ.get("TRITON_INTERPRET") == "1":
        import triton
        import triton.language
        import triton.runtime.interpreter  # noqa: F401


def _start(request: dict, control: socket.socket, session_fd: int, slot: int) -> dict:
    """Fork twice: the middle process enters the new namespaces and ends, its child is the student's process."""
    limits = Limits(**request["limits"])
    folder = tempfile.mkdtemp(prefix="multipole-lab-student-")
    os.chmod(folder, 0o777)
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        reply = {"folder": folder}
        try:
            control.close()
            os.close(read)
            walls, root = sandbox.enclose(request["visible"], request["hidden"], folder, limits, slot)
            reply |= {"notes": walls.notes}
            pid = os.fork()
            if pid == 0:
                _become_student(session_fd, limits, root, slot, request["job"])
            reply["pid"] = pid
        except sandbox.NoWalls as error:
            reply["no walls"] = str(error)
        except BaseException as error:
            reply["failed"] = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, json.dumps(reply).encode())
            os._exit(0)
    os.close(write)
    os.waitpid(middle, 0)
    with open(read, "rb") as pipe:
        return json.loads(pipe.read() or b'{"failed": "the process could not be set up"}') | {
            "folder": folder
        }


def _become_student(session_fd: int, limits: Limits, root: bool, slot: int, job: dict) -> None:
    """Never returns."""
    status = 70
    try:
        os.setsid()
        fd = os.dup2(session_fd, 100)
        null = os.open("/dev/null", os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, 100)
        os.closerange(101, 4096)
        sandbox.confine(limits, root, slot)
        from multipole_lab.course.sandbox import student

        student.serve(socket.socket(fileno=fd), job)
        status = 0
    finally:
        os._exit(status)


def _end(child: dict) -> dict:
    """Kill the student's process and all it has started; say how it had ended by itself, if it had."""
    shutil.rmtree(child["folder"], ignore_errors=True)
    pid = child.get("pid")
    if pid is None:
        return {"failed": child.get("failed")}
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    # In a namespace all others died with it. Otherwise they are this process's children by now.
    while rest := psutil.Process().children(recursive=True):
        for process in rest:
            try:
                process.kill()
                process.wait(5)
            except psutil.Error:
                continue
    if not done:
        return {"killed": True}
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    return {"code": os.WEXITSTATUS(status)}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
