"""What tests of exported courses share: a small master of assignment 1, submissions of it, an /autograder folder."""

import ctypes
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

from submissions import solution_cells

from multipole_lab.course.grading import notebook

KEPT = ("a1-setup", "A1-1", "A1-1-tests", "A1-6", "A1-6-tests", "A1-7", "A1-8", "A1-8-tests")
FORBIDDEN = "def weights(q, k, scale):\n    return torch.softmax(scale * q @ k.T, -1)"


def masters(folder: Path) -> Path:
    """A folder with a master of assignment 1: questions 1 and 6 (11 points), 7 (4, written) and 8 (4, bonus)."""
    content = json.loads((notebook.masters_folder() / "A1.ipynb").read_text(encoding="utf-8"))
    content["cells"] = [c for c in content["cells"] if c["metadata"]["nbgrader"]["grade_id"] in KEPT]
    folder.mkdir(parents=True)
    (folder / "A1.ipynb").write_text(json.dumps(content), encoding="utf-8")
    return folder


def hungry() -> str:
    """The solution of question 6 with 400 MB that it does not need; 200 MB are allowed."""
    head, _, body = solution_cells()["A1-6"].partition("):\n")
    return f"{head}):\n    unused = torch.ones(400 << 20, dtype=torch.uint8)\n{body}"


def submission(path: Path, released: str, changed: dict | None = None, dropped: tuple = ()) -> Path:
    """A released notebook, filled in with the solutions, with cells changed and others dropped."""
    content = json.loads(released)
    sources = solution_cells() | {"A1-7": "It is associative."} | (changed or {})
    cells = [(cell["metadata"]["nbgrader"]["grade_id"], cell) for cell in content["cells"]]
    content["cells"] = [
        cell | {"source": sources.get(name, cell["source"])} for name, cell in cells if name not in dropped
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def autograder(archive: Path, root: Path) -> Path:
    """The folder that is /autograder there, as Gradescope's image has it after setup.sh."""
    for name in ("source", "submission", "results"):
        (root / name).mkdir(parents=True)
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(root / "source")
    shutil.copy(root / "source" / "run_autograder", root / "run_autograder")
    (root / "run_autograder").chmod(0o755)
    python = root / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return root


def without_namespaces() -> None:
    """Make this process the root of a container: other users are there, new namespaces are refused.

    For ``preexec_fn``; needs root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    entered_r, entered_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    outside = os.fork()
    if outside == 0:  # stays outside, to write the maps of the one who enters
        os.read(entered_r, 1)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{os.getppid()}/{kind}").write_text("0 0 70000")
        os.write(mapped_w, b"x")
        os._exit(0)
    assert libc.unshare(0x10000000) == 0  # users
    os.write(entered_w, b"x")
    os.read(mapped_r, 1)
    os.waitpid(outside, 0)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    assert libc.prctl(24, 21, 0, 0, 0) == 0  # no CAP_SYS_ADMIN for what is executed from here
