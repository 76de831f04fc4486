"""Wrong and hostile submissions of assignment 1: each scores what it should, and stops nothing and nobody."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from multipole_lab.course import notebook, session
from multipole_lab.course.batch import grade_folder
from multipole_lab.course.grading import grade_submission
from multipole_lab.course.sandbox import Limits
from multipole_lab.course.session import Session, Zygote, library_paths

NAMES = ("A1.1", "A1.2")


def solution_cells(assignment="A1"):
    """{grade_id: source} of the master's solutions."""
    cells, _ = notebook.read(notebook.load_master(assignment).text)
    return {
        cell.name: "\n".join(line for line, kind in notebook.parts(cell.source) if kind != "tests")
        for cell in cells
        if cell.grade.get("solution") and cell.kind == "code"
    }


def small_master(names=NAMES, seconds=3):
    """The master of assignment 1 with some of its questions and less time for each."""
    master = notebook.load_master("A1")
    items = tuple(replace(item, seconds=seconds) for item in master.items if item.name in names)
    return replace(master, items=items)


def write(path: Path, changed=None, extra=(), metadata=None, before=()) -> Path:
    """Write a submission: the solutions, with cells replaced (None: deleted), and cells before and behind."""
    sources = solution_cells() | (changed or {})
    cells = [("", source) for source in before]
    cells += [(name, source) for name, source in sources.items() if source is not None]
    cells += [("", source) for source in extra]
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{i}",
                "metadata": {"nbgrader": {"grade_id": name, "solution": True}} if name else {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for i, (name, source) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "language": "python"}}
        if metadata is None
        else metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def zygote():
    hidden = [notebook.masters_folder(), library_paths()[1][0]]
    with Zygote(0, hidden) as one:
        yield one


@pytest.fixture
def grade(zygote, tmp_path, monkeypatch):
    """Grade one submission; returns {question: points} and the whole result."""
    monkeypatch.setattr(session, "CELL_SECONDS", 2.0)
    monkeypatch.setattr(session, "PATIENCE", 2.0)

    def run(changed=None, names=NAMES, seconds=2, **how):
        path = write(tmp_path / "someone" / "A1.ipynb", changed, **how)
        result = grade_submission(small_master(names, seconds), path, zygote, Limits(memory=1 << 30))
        return {item["question"]: item["earned"] for item in result["items"]}, result

    return run


def reasons(result, question="A1.1"):
    """All that the student is told about a question, in one string."""
    item = next(item for item in result["items"] if item["question"] == question)
    return "; ".join([item["reason"], *(test["reason"] for test in item["tests"])])


RIGHT = {"A1.1": 5.0, "A1.2": 5.0}


def test_the_solutions_score_everything(grade):
    assert grade()[0] == RIGHT


# --- wrong in good faith --------------------------------------------------------------------------

NAIVE = """
def weights(q, k, scale):
    grown = torch.exp(scale * q @ k.T)
    return grown / grown.sum(1, keepdim=True)
"""
WRONG = {
    "the scale is forgotten": (NAIVE.replace("scale * q", "q"), 0, "off by"),
    "the maximum is not subtracted": (NAIVE, 3, "NaN"),
    "wrong axis": (NAIVE.replace("1, keepdim", "0, keepdim"), 0, "off by"),
    "all NaN": ("def weights(q, k, scale):\n    return torch.full((len(q), len(k)), torch.nan)", 0, "NaN in"),
    "fp16 overflows": (NAIVE.replace("scale * q @ k.T", "(scale * 9 * q).half() @ k.half().T"), 0, "NaN"),
    "a constant": (
        "def weights(q, k, scale):\n    return torch.full((len(q), len(k)), 1 / len(k))",
        0,
        "off by",
    ),
    "a Python list": (NAIVE.replace("True)", "True).tolist() if 0 else [1.0]"), 0, "tensor is expected"),
    "transposed": (
        NAIVE.replace("True)\n", "True)\n").replace("return ", "return (").rstrip() + ").T\n",
        0,
        "shape",
    ),
    "no return": (NAIVE.replace("return ", ""), 0, "return"),
    "an exception": ("def weights(q, k, scale):\n    return q @ k", 0, "RuntimeError"),
    "a syntax error": ("def weights(q, k, scale)\n    return q", 0, "SyntaxError"),
    "not written": ("def weights(q, k, scale):\n    raise NotImplementedError", 0, "not written yet"),
    "a deleted cell": (None, 0, "is missing"),
    "a renamed function": (NAIVE.replace("def weights", "def my_weights"), 0, "renamed to `my_weights`"),
    "no function at all": ("weights = 3", 0, "there is no function"),
    "the library is called": (
        "def weights(q, k, scale):\n    from multipole_lab.attention.expansion import softmax_lse\n    return 1",
        0,
        "does not allow",
    ),
    "a forbidden function": (
        "def weights(q, k, scale):\n    return (scale * q @ k.T).softmax(1)",
        0,
        "softmax",
    ),
    "a forbidden function, hidden": (
        "def weights(q, k, scale):\n    return getattr(torch, 'soft' + 'max')(scale * q @ k.T, 1)",
        0,
        "does not allow torch.softmax",
    ),
    "scipy": (
        "def weights(q, k, scale):\n    from scipy.special import expit\n    return 1",
        0,
        "does not allow scipy",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_in_good_faith(grade, name):
    source, points, reason = WRONG[name]
    earned, result = grade({"A1-1": source})
    assert earned == {"A1.1": points, "A1.2": 5.0}
    assert reason in reasons(result)


@pytest.mark.parametrize("by", [-1, 1])
def test_a_mask_off_by_one_scores_nothing(grade, by):
    source = solution_cells()["A1-3"].replace("position[:, None]", f"position[:, None] + {by}")
    assert grade({"A1-3": source}, names=("A1.3",))[0] == {"A1.3": 0.0}


def test_a_solution_with_notebook_commands_and_noise_is_graded(grade):
    source = (
        "%matplotlib inline\n!pip list\n" + solution_cells()["A1-1"] + "\nprint('hello')\nweights.__doc__"
    )
    extra = [
        "%%time\nraise ValueError('a cell of the student')",
        "ml.load_sample('smollm2')",
        "import plotly",
    ]
    assert grade({"A1-1": source}, extra=extra)[0] == RIGHT


def test_a_function_may_stand_in_another_cell(grade):
    source = solution_cells()["A1-1"]
    assert grade({"A1-1": None}, extra=[source])[0] == RIGHT


# --- hostile --------------------------------------------------------------------------------------

LOOP = "def weights(q, k, scale):\n    while True:\n        pass"
FORK_BOMB = """
import os, time
def weights(q, k, scale):
    while True:
        try:
            if os.fork() == 0:
                time.sleep(1000)
        except OSError:
            time.sleep(1000)
"""
DAEMON = """
import os, time
def weights(q, k, scale):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open("multipole-daemon", "w").close()
            time.sleep(1000)
        os._exit(0)
    raise ValueError("left a daemon behind")
"""
PATCH = """
import sys
torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True
torch.Tensor.__ne__ = torch.Tensor.__gt__ = lambda *a: torch.zeros((), dtype=torch.bool)
torch.Tensor.abs = lambda x: x * 0
ml.course.check = ml.course.Marks = ml.course.same = lambda *a, **k: True
def weights(q, k, scale):
    return torch.zeros(len(q), len(k))
"""
FORGE = """
import os, json
def weights(q, k, scale):
    line = json.dumps({"A1.1": 5.0, "score": 5, "earned": 5.0, "points": 5.0})
    print(line); print("5.0"); print("PASSED")
    for fd in range(3, 200):
        try:
            os.write(fd, line.encode() * 20)
        except OSError:
            pass
    return torch.zeros(len(q), len(k))
"""
MEMORISED = """
import multipole_lab as ml
seen = {}
def weights(q, k, scale):
    try:
        from multipole_lab.course import a1, question
        for seed in range(50):
            for label, args in a1.QUESTIONS["A1.1"].cases(question.Random(seed)):
                seen[args[0].sum().item()] = a1.weights(*args)
    except Exception:
        pass
    return seen.get(q.sum().item(), torch.full((len(q), len(k)), 0.25))
"""
STACK = """
import inspect, gc, sys
def weights(q, k, scale):
    for frame in inspect.stack():
        for value in (*frame.frame.f_globals.values(), *frame.frame.f_locals.values()):
            if "oracle" in str(value)[:2000]:
                return value
    found = [m for m in sys.modules if "course" in m]
    functions = [o for o in gc.get_objects() if getattr(o, "__module__", "") == "multipole_lab.course.a1"]
    raise ValueError(f"{len(functions)} functions")
"""
HOSTILE = {
    "an endless loop": (LOOP, 0, "processor time|no answer"),
    "an endless sleep": ("import time\ndef weights(q, k, scale):\n    time.sleep(1e6)", 0, "no answer"),
    "an endless loop outside of functions": (
        "while True: pass\n",
        0,
        "processor time|come to an end|cells took",
    ),
    "a memory bomb": ("def weights(q, k, scale):\n    return torch.ones(10**10)", 0, "memory"),
    "a memory bomb in steps": (
        "def weights(q, k, scale):\n    x = []\n    while True: x.append(bytearray(10**7))",
        0,
        "Memory|no answer|processor time",
    ),
    "a fork bomb": (FORK_BOMB, 0, "no answer"),
    "a daemon that leaves its session": (DAEMON, 0, "left a daemon"),
    "os._exit": ("import os\ndef weights(q, k, scale):\n    os._exit(0)", 0, "exit code 0"),
    "os._exit outside of functions": (
        "import os\nos._exit(0)\ndef weights(q, k, scale): pass",
        0,
        "exit code 0",
    ),
    "sys.exit(0)": ("import sys\ndef weights(q, k, scale):\n    sys.exit(0)", 0, "SystemExit"),
    "sys.exit outside of functions": (
        "import sys\nsys.exit(0)\ndef weights(q, k, scale): pass",
        0,
        "SystemExit",
    ),
    "a crash": ("import ctypes\ndef weights(q, k, scale):\n    ctypes.string_at(0)", 0, "SIGSEGV"),
    "a kill of all": (
        "import os\ndef weights(q, k, scale):\n    os.kill(-1, 9)\n    os.kill(os.getppid(), 9)\n    os._exit(5)",
        0,
        "",
    ),
    "torch and the checker replaced": (PATCH, 0, "off by"),
    "Python itself replaced": (
        "import builtins\nbuiltins.isinstance = builtins.len = lambda *a: True\ndef weights(q, k, scale): return q",
        0,
        "",
    ),
    "printed and forged scores": (FORGE, 0, ""),
    "a memorised public test": (MEMORISED, 0, "off by"),
    "the checker's frames and memory read": (STACK, 0, "0 functions"),
    "every exception caught": (
        "def weights(q, k, scale):\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass",
        0,
        "processor time|no answer",
    ),
    "signals ignored": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
        + LOOP,
        0,
        "processor time|no answer",
    ),
    "limits raised": (
        "import resource\ndef weights(q, k, scale):\n    resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))\n",
        0,
        "not allowed|ValueError",
    ),
    "deep recursion": ("def weights(q, k, scale):\n    return weights(q, k, scale)", 0, "RecursionError"),
    "an answer without end": (
        "def weights(q, k, scale):\n    return [torch.ones(4000000)] * 9",
        0,
        "more than 64 MB",
    ),
    "an answer of terabytes": (
        "def weights(q, k, scale):\n    return torch.ones(1).expand(10**12)",
        0,
        "more than 64 MB",
    ),
    "an answer too deep": (
        "def weights(q, k, scale):\n    x = q\n    for _ in range(17): x = [x]\n    return x",
        0,
        "nested more than 16",
    ),
    "an answer that is an object": (
        "class Any:\n    __eq__ = lambda *a: True\ndef weights(*a): return Any()",
        0,
        "a Any",
    ),
    "an exception that resists": (
        "class Bad(BaseException):\n    def __str__(self): raise Bad\ndef weights(*a): raise Bad",
        0,
        "cannot be printed",
    ),
    "a number without end": ("def weights(*a): return 10 ** 6000", 0, ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(grade, zygote, name):
    source, points, reason = HOSTILE[name]
    began = time.monotonic()
    # Little time only where time is what ends it: a slow machine needs a part of a second for some of the others.
    seconds = 1 if {"processor time", "no answer"} & set(reason.split("|")) else 5
    earned, result = grade({"A1-1": source}, seconds=seconds)
    said = reasons(result)
    assert earned == {"A1.1": points, "A1.2": 5.0}, said
    assert any(part in said for part in reason.split("|")), said
    assert time.monotonic() - began < 60
    assert not psutil.Process(zygote.process.pid).children(recursive=True), "something was left running"


@pytest.fixture
def probe(zygote):
    """Run some code in a student's process and get its answer."""
    sessions = []

    def run(source, *args, library=False):
        job = {
            "library": library,
            "packages": ["multipole_lab"] * (not library),
            "forbidden": [],
            "functions": ["f"],
        }
        sessions.append(Session(zygote, [("cell", source)], job, Limits(seconds=3)))
        sessions[-1].start()
        assert sessions[-1].errors == {}
        return sessions[-1].call("f", args, {})

    yield run
    for one in sessions:
        one.end()


def walled(zygote) -> bool:
    """Whether this machine lets us make namespaces; where not, the notes of every result say so."""
    one = Session(
        zygote, [], {"library": False, "packages": [], "forbidden": [], "functions": []}, Limits(seconds=3)
    )
    one.start()
    one.end()
    return not one.notes


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


def test_no_environment_and_no_rights(probe, zygote, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_GRADER", "42")
    environment, user = probe("import os\ndef f():\n    return dict(os.environ), os.geteuid()")
    assert "SECRET_OF_THE_GRADER" not in environment
    assert set(environment) == set(zygote.environment)
    assert user != 0


def test_the_parents_files_are_not_there(probe, zygote, tmp_path):
    if not walled(zygote):
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
    assert "attention" in probe(LOOK, str(ours.parents[1]), library=True)[0]


def test_no_network(probe, zygote):
    if not walled(zygote):
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


def test_gigabytes_are_not_written(probe, zygote):
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
    assert 8_000_000 <= probe(source) <= (limit.folder if walled(zygote) else 400 * 8_000_000) + limit.file


def test_only_the_students_folder_can_be_written(probe, zygote):
    if not walled(zygote):
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


# --- files that are no submissions ----------------------------------------------------------------


def huge(path):
    with open(path, "wb") as file:
        file.truncate(100_000_000)


FILES = {
    "not JSON": (lambda p: p.write_text("%PDF-1.4 " * 50), "not JSON"),
    "empty": (lambda p: p.write_text(""), "not JSON"),
    "JSON but no notebook": (lambda p: p.write_text("[1, 2]"), "no notebook"),
    "nested without end": (lambda p: p.write_text("[" * 200_000), "not JSON"),
    "not text": (lambda p: p.write_bytes(b"\xff\xfe\x00binary"), "not text"),
    "100 MB": (huge, "100 MB"),
    "a link": (lambda p: p.symlink_to(notebook.masters_folder() / "A1.ipynb"), "no notebook file"),
    "nothing": (lambda p: None, "no notebook file"),
    "another language": (
        lambda p: write(p, metadata={"kernelspec": {"name": "julia-1.11", "language": "julia"}}),
        "'julia', not Python",
    ),
    "cells that are no cells": (
        lambda p: p.write_text('{"cells": [1, null, {"source": 5}], "metadata": 7}'),
        "",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_submission_scores_nothing_and_says_why(zygote, tmp_path, name):
    make, reason = FILES[name]
    make(tmp_path / "A1.ipynb")
    result = grade_submission(small_master(), tmp_path / "A1.ipynb", zygote)
    assert result["earned"] == 0
    assert reason in result["problem"]
    assert all(item["reason"] for item in result["items"])


def test_an_unexpected_kernel_of_python_is_noted(grade):
    earned, result = grade(metadata={"kernelspec": {"name": "conda-env-course-py", "language": "python"}})
    assert earned == RIGHT
    assert "conda-env-course-py" in result["notes"][0]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes a right of root away")
def test_without_namespaces_the_limits_hold_and_a_note_says_what_does_not(tmp_path):
    """As in a container: the kernel refuses namespaces."""
    write(tmp_path / "ada" / "A1.ipynb", {"A1-1": FORK_BOMB}, extra=["import os\nassert os.geteuid() != 0"])
    master = tmp_path / "masters" / "A1.ipynb"
    content = json.loads((notebook.masters_folder() / "A1.ipynb").read_text())
    kept = ("a1-setup", "A1-1-tests", "A1-2-tests")
    content["cells"] = [c for c in content["cells"] if c["metadata"]["nbgrader"]["grade_id"] in kept]
    content["cells"][1]["metadata"]["multipole_lab"]["seconds"] = 1
    master.parent.mkdir()
    master.write_text(json.dumps(content))
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-m"]
    command += [
        "multipole_lab.cli",
        "course",
        "grade",
        str(tmp_path),
        "--assignment",
        "A1",
        "--out",
        str(tmp_path / ".out"),
    ]
    subprocess.run([*command, "--masters", str(master.parent)], check=True, capture_output=True)
    result = json.loads((tmp_path / ".out" / "results" / "ada.json").read_text())
    assert {item["question"]: item["earned"] for item in result["items"]} == {"A1.1": 0, "A1.2": 5}
    assert any("the network is not cut off" in note for note in result["notes"])


# --- batches --------------------------------------------------------------------------------------


@pytest.fixture
def quick_master(monkeypatch):
    from multipole_lab.course import batch

    monkeypatch.setattr(batch, "load_master", lambda name, folder=None: small_master(("A1.1",), 2))


def test_a_batch_survives_and_resumes(quick_master, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder / "ada" / "A1.ipynb")
    write(folder / "bob" / "A1" / "A1.ipynb", {"A1-1": "import os\nos._exit(1)"})
    (folder / "eve").mkdir()
    (folder / "mallory.ipynb").write_text("no JSON")
    seen = []
    paths = grade_folder(folder, out, progress=lambda done, total, student: seen.append((done, total)))
    results = [json.loads(path.read_text()) for path in paths]
    assert [(r["student"], r["earned"]) for r in results] == [
        ("ada", 5),
        ("bob", 0),
        ("eve", 0),
        ("mallory", 0),
    ]
    assert sorted(seen) == [(1, 4), (2, 4), (3, 4), (4, 4)]

    stamps = [path.stat().st_mtime_ns for path in paths]
    write(folder / "bob" / "A1" / "A1.ipynb")  # handed in again
    grade_folder(folder, out)
    changed = [a != b.stat().st_mtime_ns for a, b in zip(stamps, paths, strict=True)]
    assert changed == [False, True, False, False]
    assert json.loads(paths[1].read_text())["earned"] == 5


def folders():
    """The temporary folders of students' processes."""
    return Path(tempfile.gettempdir()).glob("multipole-lab-student-*")


def test_a_killed_batch_leaves_whole_results_and_no_processes(tmp_path):
    folder, out, masters = tmp_path / "in", tmp_path / "out", tmp_path / "masters"
    for i in range(40):
        write(folder / f"s{i:02d}" / "A1.ipynb")
    content = json.loads((notebook.masters_folder() / "A1.ipynb").read_text())
    kept = ("a1-setup", "A1-1-tests")
    content["cells"] = [c for c in content["cells"] if c["metadata"]["nbgrader"]["grade_id"] in kept]
    masters.mkdir()
    (masters / "A1.ipynb").write_text(json.dumps(content))
    command = [sys.executable, "-m", "multipole_lab.cli", "course", "grade", str(folder), "--out", str(out)]
    command += ["--masters", str(masters)]
    before = set(folders())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(out.glob("results/s*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in out.glob("results/s*.json")}
    assert 0 < len(first) < 40
    assert all(json.loads(path.read_text())["earned"] == 5 for path in first)
    _, alive = psutil.wait_procs(children, 20)
    assert not alive
    assert set(folders()) <= before, "a temporary folder was left behind"
    assert len(grade_folder(folder, out, masters=masters)) == 40
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items()), "graded twice"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "which is no folder"),
        (lambda f: f.mkdir(), "no submissions"),
        (lambda f: write(f / "ada.ipynb"), "which assignment"),
        (lambda f: (write(f / "ada" / "A1.ipynb"), write(f / "bob" / "A2.ipynb")), "A1, A2"),
    ],
)
def test_a_folder_that_cannot_be_graded_says_why(tmp_path, make, message):
    make(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        grade_folder(tmp_path / "in", tmp_path / "out")
