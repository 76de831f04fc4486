"""The walls around a student's process: what it sees, reaches and can write."""

import os
import sys
from pathlib import Path

import pytest

import multipole_lab
from multipole_lab.course.grading import notebook
from multipole_lab.course.sandbox.session import Session
from multipole_lab.course.sandbox.walls import Limits, NoWalls


@pytest.fixture
def probe(fork_server):
    """Run some code in a student's process and get its answer."""
    sessions = []

    def run(source, *args, library=False):
        job = {
            "library": library,
            "packages": ["multipole_lab"] * (not library),
            "forbidden": [],
            "operators": [],
            "count": False,
            "functions": ["f"],
        }
        sessions.append(Session(fork_server, [("cell", source)], job, Limits(seconds=20)))
        sessions[-1].start()
        assert sessions[-1].errors == {}
        return sessions[-1].call("f", args, {})

    yield run
    for one in sessions:
        one.end()


def walled(fork_server) -> bool:
    """Whether this machine lets us make namespaces; where not, grading refuses."""
    job = {
        "library": False,
        "packages": [],
        "forbidden": [],
        "operators": [],
        "count": False,
        "functions": [],
    }
    one = Session(fork_server, [], job, Limits(seconds=3))
    try:
        one.start()
    except NoWalls:
        return False
    one.end()
    return True


LOOK = """
import os
def f(*paths):
    found = []
    for path in paths:
        try:
            found.append(os.listdir(path) if os.path.isdir(path) else str(open(path, "rb").read(20)))
        except OSError as error:
            found.append(error.errno)
    return found
"""


def test_no_environment_and_no_rights(probe, fork_server, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_GRADER", "42")
    environment, user = probe("import os\ndef f():\n    return dict(os.environ), os.geteuid()")
    assert "SECRET_OF_THE_GRADER" not in environment
    assert set(environment) == set(fork_server.environment)
    assert user != 0


def test_the_parents_files_are_not_there(probe, fork_server, tmp_path):
    if not walled(fork_server):
        pytest.skip("no namespaces on this machine")
    secret = tmp_path / "secret.txt"
    secret.write_text("42")
    ours = Path(notebook.__file__)
    paths = [
        secret,
        "/proc/1/environ",
        f"/proc/{os.getpid()}/environ",
        notebook.masters_folder() / "A1.ipynb",
        ours,
    ]
    for library in (False, True):
        assert probe(LOOK, *map(str, paths), library=library) == [2] * len(paths)
    assert "attention" in probe(LOOK, str(Path(multipole_lab.__file__).parent), library=True)[0]


def test_no_network(probe, fork_server):
    if not walled(fork_server):
        pytest.skip("no namespaces on this machine")
    source = """
import socket
def f():
    try:
        socket.create_connection(("127.0.0.1", 9), 1)
    except OSError as error:
        return error.errno
"""
    import errno

    assert probe(source) == errno.ENETUNREACH


def test_gigabytes_are_not_written(probe, fork_server):
    source = """
def f():
    written = 0
    try:
        for i in range(400):
            with open(f"{i}.bin", "wb") as file:
                written += file.write(bytes(8_000_000))
    except OSError:
        pass
    try:
        with open("one.bin", "wb") as file:
            for i in range(100):
                written += file.write(bytes(1_000_000))
    except OSError:
        pass
    return written
"""
    limit = Limits()
    assert (
        8_000_000 <= probe(source) <= (limit.folder if walled(fork_server) else 400 * 8_000_000) + limit.file
    )


def test_only_the_students_folder_can_be_written(probe, fork_server):
    if not walled(fork_server):
        pytest.skip("no namespaces on this machine")
    source = """
import os
def f(*folders):
    there = []
    for folder in folders:
        try:
            open(os.path.join(folder, "mine"), "w").close()
            there.append(folder)
        except OSError:
            pass
    return there
"""
    assert probe(source, "/", "/usr", "/tmp", "/dev", sys.prefix, "/submission", ".") == ["/submission", "."]


def test_the_library_can_be_called_where_a_question_allows_it(probe):
    source = (
        "import multipole_lab as ml\ndef f(q): return ml.Exact()(q, q, q), ml.course.check('A1.1', f) is None"
    )
    import torch

    out, silent = probe(source, torch.ones(1, 1, 4, 16), library=True)
    assert silent
    assert torch.allclose(out, torch.ones(1, 1, 4, 16))
