"""The grader's side of a student's process: start it, call its functions, bound its time, end it."""

from __future__ import annotations

import signal
import socket
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import multipole_lab
from multipole_lab.course.sandbox import wire
from multipole_lab.course.sandbox.walls import Limits, NoWalls
from multipole_lab.course.sandbox.worker import ForkServer
from multipole_lab.renamed import with_old_names

CELL_SECONDS = 10.0  # for one cell of a notebook
CELLS_SECONDS = 60.0  # for all of them, beside the time of the question
PATIENCE = 3.0  # wall-clock time over processor time: a sleep ends too, a busy machine is forgiven


class Failure(Exception):
    """A student's function gave no answer. The message is for the student."""


class TimeUp(Failure):
    """It gave none in time."""


def library_paths() -> tuple[list[str], list[Path]]:
    """What a question that allows the library makes visible: the parts of multipole_lab, without ``course``."""
    folder = Path(multipole_lab.__file__).resolve().parent
    root = folder.parent
    parts = [path for path in folder.iterdir() if path.name not in {"course", "__pycache__"}]
    beside = [root / name for name in ("kernels", "data") if (folder.parent / name).is_dir()]
    return [str(path) for path in (*parts, *beside)], [folder / "course"]


def python_paths(packages: list[str]) -> list[str]:
    """Where this Python lies, and ``packages``, those that the fork server can import, but for multipole_lab's own.

    Python is there by the names that it goes by itself, too: they may pass through a link, and ``sys.path`` does.
    """
    ours = Path(multipole_lab.__file__).resolve().parents[1]
    named = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    prefixes = named | {prefix.resolve() for prefix in named}
    outside = {Path(path).resolve() for path in packages} - {ours}
    outside = {
        p for p in outside if not any(p.is_relative_to(q) for q in (*prefixes, ours / "multipole_lab"))
    }
    outside -= {ours / "kernels", ours / "data"}
    return sorted({str(path) for path in prefixes | outside} - {"/usr", "/"})


class Session:
    """One student process for one question.

    Parameters
    ----------
    fork_server : the worker's.
    cells : (label, source) in the order of the notebook.
    job : ``library``, ``forbidden``, ``functions``: see `student.serve`.
    limits : of the process.

    Attributes
    ----------
    took : {label: seconds that the cell ran}.
    exponentials : how many numbers went through exp and the like in the last call, where the job asks for it.
    errors : {label: what the cell raised}.
    stuck : {label: why the cell had to be left out}.
    defined : {function: whether the notebook defines it}.
    """

    def __init__(
        self, fork_server: ForkServer, cells: list[tuple[str, str]], job: dict, limits: Limits
    ) -> None:
        self.fork_server, self.job, self.limits = fork_server, job, limits
        self.cells = list(cells)
        self.errors: dict[str, str] = {}
        self.stuck: dict[str, str] = {}
        self.took: dict[str, float] = {}
        self.exponentials = 0
        self.defined: dict[str, bool] = {}
        self.functions: list[str] = []
        self.sock: socket.socket | None = None
        self.time_left = (
            limits.seconds * PATIENCE
        )  # of the time that answers are waited for, and nothing else
        self.cells_left = CELLS_SECONDS

    def start(self) -> None:
        """Run the cells in a new process; a cell that ends or stops the process is left out the next time.

        Cells have a time of their own, beside that of the question.
        """
        began = time.monotonic()
        while True:
            if time.monotonic() - began > self.cells_left:
                raise TimeUp(f"the notebook's cells took more than {CELLS_SECONDS:.0f} s")
            running = self._start_once(began + self.cells_left)
            if running is None:
                self.cells_left -= time.monotonic() - began
                return
            # The cell that the process says it ran: a hostile one that lies loses another of its cells.
            label, _ = self.cells.pop(running)
            self.stuck[label] = self._how_it_ended(f"while the cell {label!r} ran")

    def _start_once(self, cells_end: float) -> int | None:
        """Returns the index of the cell that did not end, or None when all did."""
        visible, hidden = library_paths()
        ours, theirs = socket.socketpair()
        with theirs:
            reply = self.fork_server.ask(
                {
                    "do": "start",
                    "limits": asdict(self.limits),
                    "visible": python_paths(self.fork_server.packages)
                    + (visible if self.job["library"] else []),
                    "hidden": [str(path) for path in hidden] + self.fork_server.hidden,
                    "job": self.job
                    | {"environment": self.fork_server.environment, "seconds": self.limits.seconds},
                },
                theirs.fileno(),
            )
        if "no walls" in reply:
            raise NoWalls(
                f"{reply['no walls']}: a submission could read the masters and your files, change the results of "
                "others, stop the grader and use the network. Grade on another machine, or in a virtual machine that "
                "you throw away, or switch namespaces on (sysctl kernel.apparmor_restrict_unprivileged_userns=0 on "
                "Ubuntu, --security-opt seccomp=unconfined for docker); --unsafe grades all the same"
            )
        if "pid" not in reply:
            raise RuntimeError(f"no process for a submission: {reply.get('failed')}")
        for note in reply["notes"]:  # for the console: a student learns nothing of it
            warnings.warn(f"--unsafe: {note}", stacklevel=2)
        self.sock = ours
        try:
            wire.receive(ours, time.monotonic() + 60)
        except (EOFError, OSError, TimeoutError) as error:
            raise RuntimeError(f"a student's process could not be set up: {self.end()}") from error
        index, began = -1, time.monotonic()
        try:
            wire.send(ours, self.cells)
            while True:
                message = wire.receive(ours, min(time.monotonic() + CELL_SECONDS, cells_end))
                now = time.monotonic()
                if index >= 0:
                    self.took[self.cells[index][0]] = now - began
                began = now
                if "cell" in message:
                    index = max(0, min(int(message["cell"]), len(self.cells) - 1))
                    continue
                self.errors = {
                    str(label): _clip(f"{kind}: {text}") for label, kind, text in message["errors"]
                }
                self.defined = {str(name): value is True for name, value in message["defined"].items()}
                self.functions = [str(name)[:60] for name in message["functions"][:50]]
                return None
        except (
            EOFError,
            OSError,
            TimeoutError,
            wire.WireError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            if not self.cells:
                raise RuntimeError("a process without any cell ended") from error
            return max(0, index)

    def call(self, name: str, args: tuple, kwargs: dict) -> object:
        """The result of one of the student's functions.

        Raises
        ------
        Failure : it raised, ended the process, or returned what cannot be compared.
        TimeUp : the question's time is over.
        """
        if self.time_left <= 0:
            raise TimeUp(f"the time of this question ({self.limits.seconds} s) is used up")
        if self.sock is None:
            self.start()
        began = time.monotonic()
        try:
            wire.send(self.sock, {"name": name, "args": list(args), "kwargs": kwargs})
            answer = wire.receive(self.sock, began + self.time_left)
            if "result" in answer:
                self.exponentials = int(answer["exponentials"])
                return answer["result"]
            kind, text = answer["error"]
        except TimeoutError:
            self.end()
            raise TimeUp(f"no answer from {name} within the question's {self.limits.seconds} s") from None
        except (EOFError, OSError):
            reason = self._how_it_ended(f"while {name} ran")
            if "processor time" in reason:
                self.time_left = 0.0
            raise Failure(reason) from None
        except (wire.WireError, KeyError, TypeError, ValueError) as error:
            self.end()
            raise Failure(f"{name} gave no result but {error}") from None
        finally:
            self.time_left -= time.monotonic() - began
        if kind == "NotImplementedError":
            raise Failure(f"{name} is not written yet")
        raise Failure(_clip(f"{name} raised {kind}: {text}"))

    def _how_it_ended(self, when: str) -> str:
        """End the process; say how it had ended."""
        ended = self.end()
        if "code" in ended:
            return f"the process ended itself {when} (exit code {ended['code']})"
        number = ended.get("signal")
        if number == signal.SIGXCPU or number == signal.SIGKILL:
            return f"the {self.limits.seconds} s of processor time were used up {when}"
        if number:
            return f"the process crashed {when} ({signal.Signals(number).name})"
        return f"it did not come to an end {when}"

    def end(self) -> dict:
        """Kill the process and all it has started; says how it had ended."""
        if self.sock is None:
            return {}
        self.sock.close()
        self.sock = None
        return self.fork_server.ask({"do": "end"})["ended"] or {}


def _clip(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + " ..."


__getattr__ = with_old_names(__name__)
