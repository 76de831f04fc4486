"""Hostile submissions of assignment 1: they stop nothing and nobody, and leave nothing running."""

import time

import psutil
import pytest
from submissions import reasons

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
        os.kill(os.getpid(), 9)
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
        from multipole_lab.course.questions import a1, question
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
    homes = [str(getattr(o, "__module__", "")) for o in gc.get_objects()]
    functions = [home for home in homes if home.startswith("multipole_lab.course.questions")]
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
    "os._exit": ("import os\nleave = os._exit\ndef weights(q, k, scale):\n    leave(0)", 0, "'_exit'"),
    "os.abort": ("import os\ndef weights(q, k, scale):\n    os.abort()", 0, "crashed while weights ran"),
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
        "more than 16 MB",
    ),
    "an answer of terabytes": (
        "def weights(q, k, scale):\n    return torch.ones(1).expand(10**12)",
        0,
        "more than 16 MB",
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
def test_hostile(grade, fork_server, name):
    source, points, reason = HOSTILE[name]
    began = time.monotonic()
    # Little time only where time is what ends it: a slow machine needs a part of a second for some of the others.
    seconds = 1 if {"processor time", "no answer"} & set(reason.split("|")) else 5
    earned, result = grade({"A1-1": source}, seconds=seconds)
    said = reasons(result)
    assert earned == {"A1.1": points, "A1.2": 5.0}, said
    assert any(part in said for part in reason.split("|")), said
    assert time.monotonic() - began < 60
    assert not psutil.Process(fork_server.process.pid).children(recursive=True), "something was left running"
