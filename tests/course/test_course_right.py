"""Right answers get their marks, however they are written and whatever stands around them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from one_question import grade_one, solved

from multipole_lab.course.cells.ipython import as_python
from multipole_lab.course.grading import run
from multipole_lab.course.sandbox import session
from multipole_lab.course.sandbox.session import Session, python_paths
from multipole_lab.course.sandbox.walls import Limits

RIGHT = {cell.name: cell.source for cell in (*solved("A1"), *solved("A3"), *solved("A5"))}
WEIGHTS = RIGHT["A1-1"]
IMPORTS = "import os, sys, torch, inspect, threading\n"
WITH_SOFTMAX = (
    "x = torch.softmax(torch.randn(3, 4), 1)\nlogits = grown = x.softmax(1)\nprint(torch.logsumexp(x, 1))"
)
ROWS = """
def row(x, k, scale):
    grown = scale * k @ x
    grown = torch.exp(grown - grown.max())
    return grown / grown.sum()
def weights(q, k, scale):
    return torch.vmap(lambda x: row(x, k, scale))(q)
"""
TAYLOR = """
def quadrupole(d, p, k, v, s):
    x = s * k @ p
    w = math.e ** 0 * torch.exp(x - x.max())
    w = w / w.sum()
    mean, along = w @ v, s * d @ (k - w @ k).T
    return mean + sum(w * along**j / math.factorial(j) for j in (1, 2)) @ (v - mean)
"""
ODD = {
    "float64": ("A1.1", {"source": WEIGHTS.replace("scale * q @ k.T", "scale * q.double() @ k.double().T")}),
    "experiments with what is forbidden": ("A1.1", {"extra": [WITH_SOFTMAX], "before": [IMPORTS + WITH_SOFTMAX]}),
    "experiments in the question's own cell": ("A1.1", {"source": WEIGHTS + "\n" + WITH_SOFTMAX}),
    "imports of much": ("A1.1", {"before": [IMPORTS + "from scipy.special import softmax"]}),
    "a variable called softmax": ("A1.1", {"source": WEIGHTS.replace("grown", "softmax")}),
    "a class of one's own": (
        "A1.1",
        {"source": "class W:\n    def __init__(self): self._s = 1\n    def __call__(self, *a): return self._s * w(*a)\n"
         + WEIGHTS.replace("def weights", "def w") + "\nweights = W()"},
    ),
    "rows by vmap": ("A1.1", {"source": ROWS}),
    "a cell twice": ("A1.1", {"before": [WEIGHTS.replace("amax", "amin"), WEIGHTS]}),
    "another grade_id": ("A1.1", {"grade_id": "cell-1f3a"}),
    "a shell command": ("A1.1", {"source": "files = !ls\n" + WEIGHTS + "\n!pip list"}),
    "help and magics": ("A1.1", {"source": "%matplotlib inline\n" + WEIGHTS + "\nweights?\n%time weights(x, x, 1)\n"}),
    "a timed cell": ("A1.1", {"source": "%%time\n" + WEIGHTS}),
    "await": ("A1.1", {"source": "import asyncio\nawait asyncio.sleep(0)\n" + WEIGHTS}),
    "a cell of another language": ("A1.1", {"extra": ["%%bash\nrm -rf /", "%%html\n<b>", "%lsmagic"]}),
    "a series in a loop": ("A3.8", {"source": "import math\n" + TAYLOR}),
    "a function used from A1.1": ("A1.8", {}),
}  # fmt: skip
# In the process of A1.8 `weights` is the student's: right, and of another kind than `pull` can take.
OTHER_KINDS = {
    "float64": WEIGHTS.replace("scale * q @ k.T", "scale * q.double() @ k.double().T"),
    "numpy": WEIGHTS.replace("def weights", "def inner")
    + "\ndef weights(*args):\n    return inner(*args).numpy()",
    "wrong": "def weights(q, k, scale):\n    return torch.ones(len(q), len(k))",
    "not written": "def weights(q, k, scale):\n    raise NotImplementedError",
}
AND = ("mask=mask, other=0.0)\n    second", 'mask=mask & (a > float("-inf")), other=0.0)\n    second')
MASKED = (
    RIGHT["A5-4"]
    .replace(*AND)
    .replace(
        "i, mask=mask, other=0.0)\n    largest", 'i, mask=mask & (b > float("-inf")), other=0.0)\n    largest'
    )
)


@pytest.mark.parametrize("name", ODD)
def test_a_right_answer_gets_its_marks(fork_server, name):
    question, how = ODD[name]
    grade, _ = grade_one(fork_server, question, **how)
    assert grade.earned == grade.points, grade
    assert grade.reason == ""


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_slip_costs_once(fork_server, name):
    """A1.8 calls `weights` of A1.1: it is graded with a right one too, which the feedback says."""
    grade, _ = grade_one(fork_server, "A1.8", OTHER_KINDS[name] + "\n" + RIGHT["A1-8"])
    assert grade.earned == grade.points, grade
    assert "`weights` of A1.1" in grade.reason


def test_a_mask_and_a_condition_on_a_number_that_was_loaded(interpreter):
    """Triton's interpreter raises TypeError there; the assignment's set-up cures it."""
    assert MASKED.count('> float("-inf")') == 2
    alias = "import triton.language as T\nNOTHING: tl.constexpr = -1.5\n@triton.jit\ndef half(x):\n    return x / 2"
    grade, _ = grade_one(interpreter, "A5.4", MASKED)
    assert grade.earned == grade.points, grade
    source = RIGHT["A5-1"].replace("alpha * tl.load", "half(2 * alpha) * T.load")
    grade, _ = grade_one(interpreter, "A5.1", source, extra=[alias])
    assert grade.earned == grade.points, grade


def test_cells_have_a_time_of_their_own_and_slow_ones_run_once(fork_server, monkeypatch):
    monkeypatch.setattr(session, "PATIENCE", 0.3)
    monkeypatch.setattr(run, "SLOW", 0.4)
    slow = [
        "import time\ntime.sleep(0.5)",
        "time.sleep(0.6)\nweights(torch.ones(1, 1), torch.ones(1, 1), 1.0)",
    ]
    needed = "time.sleep(0.5)\n" + WEIGHTS
    monkeypatch.setattr(run.Run, "_limits", lambda self, item: Limits(seconds=2))
    grade, one = grade_one(fork_server, "A1.1", needed, before=slow[:1], extra=slow[1:])
    assert grade.earned == grade.points, grade
    assert set(one.skipped) == {"extra cell 9"}, "the import is needed, so is what defines the function"


@pytest.mark.parametrize("installed", [True, False])
def test_the_text_of_a_cell_becomes_python(monkeypatch, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "IPython.core.inputtransformer2", None)
    for source in (
        "%time x = 1",
        "%%time\nx = 1",
        "x = %timeit -n 3 1",
        "!ls\nx = 1",
        "%matplotlib inline\nx = 1",
    ):
        space = {"get_ipython": lambda: type("Shell", (), {"__getattr__": lambda *_: lambda *_: None})()}
        exec(as_python(source), space)
        assert space["x"] == 1
    assert as_python("def f(:") == "def f(:\n" if installed else "def f(:"


GRADE = """
from one_question import grade_one
from multipole_lab.course.grading import notebook
from multipole_lab.course.sandbox.session import ForkServer, library_paths

with ForkServer(0, [notebook.masters_folder(), library_paths()[1][0]]) as one:
    grade, _ = grade_one(one, "A1.1")
print(grade.earned / grade.points)
"""


@pytest.mark.parametrize("of", ["the environment", "a folder above it"])
def test_an_environment_may_lie_behind_a_link(tmp_path, of):
    environment, link = Path(sys.prefix), tmp_path / "link"
    link.symlink_to(environment if of == "the environment" else environment.parent)
    python = (link if of == "the environment" else link / environment.name) / "bin" / "python"
    helpers = Path(__file__).resolve().parents[1] / "helpers"
    done = subprocess.run(
        [python, "-c", GRADE],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(helpers)},
    )
    assert done.stdout.split() == ["1.0"], done.stderr[-2000:]


def test_packages_outside_of_python_are_seen(fork_server, tmp_path, monkeypatch):
    """As a .pth file adds them; the library itself only where a question allows it."""
    tmp_path.chmod(0o755)
    (tmp_path / "far_away.py").write_text("answer = 42")
    source = "import far_away\ndef f(): return far_away.answer"
    assert str(tmp_path) not in python_paths(fork_server.packages)
    monkeypatch.setattr(fork_server, "packages", [*fork_server.packages, str(tmp_path)])
    job = {
        "library": False,
        "packages": [],
        "forbidden": [],
        "operators": [],
        "count": False,
        "functions": ["f"],
    }
    one = Session(
        fork_server, [("cell", f"import sys\nsys.path.append({str(tmp_path)!r})\n{source}")], job, Limits()
    )
    one.start()
    assert one.call("f", (), {}) == 42
    one.end()
