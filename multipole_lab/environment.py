"""What was measured where: the device that times are of, their precision, the versions and the command.

Whatever prints or records a time takes its words and its facts from here.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import multipole_lab
from multipole_lab.printing import one_line
from multipole_lab.suggesting import suggesting


@dataclass(frozen=True)
class Measured:
    """The facts that belong to a time.

    Attributes
    ----------
    device : the name of what was timed: a GPU, or a processor and the threads of torch.
    dtype : the precision of queries, keys and values: "float32", "bfloat16" ...; None where every row has its own.
    command : what was typed, or the call that measured.
    date : of the measurement, in UTC. versions : by package; None for one that is not installed.
    system : operating system and kind of processor.
    """

    device: str
    dtype: str | None
    command: str
    date: str
    versions: dict[str, str | None]
    system: str

    __repr__ = one_line

    @classmethod
    def here(
        cls,
        device: str | torch.device,
        dtype: str | torch.dtype | None,
        call: str = "multipole_lab",
        threads: int | None = None,
    ) -> Measured:
        """The facts of times that this process takes now on ``device``.

        Parameters
        ----------
        device : "cpu" or "cuda", where the measured tensors lie. dtype : their precision.
        call : what measures where no command of the lab runs, as in a notebook: "ml.tune".
        threads : of torch in the processes that are timed, where those are others.
        """
        name = None if dtype is None else str(dtype).removeprefix("torch.")
        return cls(machine(device, threads), name, typed_command(call), **versions())

    @property
    def words(self) -> str:
        """Device and precision, as a title has them: "NVIDIA H200, bfloat16"."""
        return ", ".join(filter(None, (self.device, self.dtype)))

    def facts(self) -> dict[str, object]:
        """Everything, in what JSON can hold."""
        return asdict(self)

    def identity(self) -> dict[str, object]:
        """What must be the same for times to be compared, so for a measurement that goes on where it was stopped."""
        kept = {name: version for name, version in self.versions.items() if name != "commit"}
        return {"machine": self.device, "dtype": self.dtype, "versions": kept}

    def __str__(self) -> str:
        """All in a line, as commands print it."""
        known = [f"{name} {version}" for name, version in self.versions.items() if version is not None]
        return f"{self.words}; {', '.join(known)}; {self.date}; {self.command}"


@suggesting
def machine(device: str | torch.device, threads: int | None = None) -> str:
    """The name of what computes on a device: its GPU, or the processor and the threads that torch uses.

    Parameters
    ----------
    device : "cpu", "cuda", "cuda:1" ...: the one that times are of.
    threads : those of other processes than this one.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = threads or torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' * (threads > 1)}"


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict:
    """The date, the versions that numbers may depend on, and the system.

    Returns
    -------
    ``date`` (UTC); ``versions`` of python, torch, cuda (torch's own), triton, transformers, multipole_lab and, in a
    checkout of it, commit, each None where there is none; ``system``.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "triton": _version("triton"),
            "transformers": _version("transformers"),
            "multipole_lab": multipole_lab.__version__,
            "commit": _commit(),
        },
        "system": f"{platform.system()} {platform.machine()}",
    }


def typed_command(otherwise: str = "multipole_lab") -> str:
    """The command of the lab that runs, as one would type it again; ``otherwise`` where none does."""
    program = Path(sys.argv[0] if sys.argv else "")
    if program.stem == "multipole-lab" or program.parts[-2:] == ("multipole_lab", "cli.py"):
        return shlex.join(["multipole-lab", *sys.argv[1:]])
    return otherwise


def _version(package: str) -> str | None:
    """Of the package that is imported, or else of the one that would be."""
    found = getattr(sys.modules.get(package), "__version__", None)
    if found is not None:
        return str(found)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that this code lies in, with "-dirty" where files differ from it."""
    root = Path(multipole_lab.__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed, or a download: a repository around it is another project's
        return None
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            env=clean | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of somebody else
        return None
    return done.stdout.strip() or None
