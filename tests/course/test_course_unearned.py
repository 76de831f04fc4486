"""No marks without the work: ways to a right answer that a question forbids, and wrong answers that look right."""

import pytest
from one_question import grade_one, master, solved

# --- A1.1 and A1.2: softmax by another name --------------------------------------------------------

LOGITS = "def weights(q, k, scale):\n    x = scale * q @ k.T\n    return "
MEMBERS = "import inspect, sys\nf = dict(inspect.getmembers({}))[{}]\n"
IN_A_THREAD = """
import threading
def threaded(*args):
    found = []
    thread = threading.Thread(target=lambda: found.append(inner(*args)))
    thread.start()
    thread.join()
    return found[0]
"""
BY_STRING = LOGITS + "getattr(torch, 'soft' + 'max')(x, 1)"
CLEAN = "# the solution stands elsewhere"
SOFTMAX = {
    "a string in two pieces": {"source": BY_STRING},
    "torch.ops": {"source": LOGITS + "torch.ops.aten._softmax(x, 1, False)"},
    "a private name": {"source": LOGITS + "torch._softmax(x, 1, False)"},
    "a cell twice, the second copy harmless": {"before": [BY_STRING], "source": CLEAN},
    "another grade_id": {"source": LOGITS + "x.softmax(1)", "grade_id": "A1-2-notes"},
    "an added cell": {"extra": [LOGITS + "torch.softmax(x, 1)"]},
    "an added cell that binds by assignment": {
        "extra": ["weights = lambda q, k, s: (s * q @ k.T).softmax(1)"]
    },
    "a helper in another cell": {
        "source": LOGITS + "helper(x)",
        "extra": ["def helper(x):\n    return torch.special.softmax(x, 1)"],
    },
    "an import under another name": {
        "before": ["from torch import softmax as plain"],
        "source": LOGITS + "plain(x, 1)",
    },
    "a function of torch replaced": {
        "before": ["import torch\ntorch.sort = torch.softmax"],
        "source": LOGITS + "torch.sort(x, 1)",
    },
    "globals": {"extra": ["globals()['wei' + 'ghts'] = lambda q, k, s: torch.softmax(s * q @ k.T, 1)"]},
    "exec": {"extra": ["exec('def weights(q, k, s): return torch.soft' + 'max(s * q @ k.T, 1)')"]},
    "setattr on the notebook": {
        "extra": ["import sys\nsetattr(sys.modules['__main__'], 'weights', lambda q, k, s: (s * q @ k.T).softmax(1))"]
    },
    "methodcaller": {"source": "import operator\n" + LOGITS + "operator.methodcaller('soft' + 'max', 1)(x)"},
    "a default argument": {
        "source": "def weights(q, k, scale, f=torch.nn.Softmax(1)):\n    return f(scale * q @ k.T)"
    },
    "attention of torch": {
        "source": "import torch.nn.functional as F\ndef weights(q, k, scale):\n    eye = torch.eye(len(k))[None]\n"
        "    return F.scaled_dot_product_attention(q[None], k[None], eye, scale=scale)[0]"
    },
    "a loss": {
        "source": MEMBERS.format("torch.nn.functional", "'cross_' + 'entropy'") + LOGITS
        + "torch.stack([(-f(x, torch.full((len(x),), j), reduction='none')).exp() for j in range(x.shape[1])], 1)"
    },
    "a distribution": {"source": LOGITS + "torch.distributions.Categorical(logits=x).probs"},
    "members of torch": {
        "source": MEMBERS.format("torch", "'_soft' + 'max'") + LOGITS + "f(x, 1, False)"
    },
    "torch in Python": {
        "before": [MEMBERS.format("sys.modules['torch._refs']", "'soft' + 'max'")],
        "source": LOGITS + "f(x, 1)",
    },
    "a decomposition": {
        "before": [MEMBERS.format("sys.modules['torch._decomp.decompositions']", "'_soft' + 'max'")],
        "source": LOGITS + "f(x, 1, False)",
    },
    "compiled code": {
        "before": ["import torch\n@torch.jit.script\ndef compiled(x):\n    return torch.softmax(x, 1)"],
        "source": LOGITS + "compiled(x)",
    },
    "a thread": {
        "source": MEMBERS.format("torch", "'_soft' + 'max'") + IN_A_THREAD.replace("inner", "f") + LOGITS
        + "threaded(x, 1, False)"
    },
    "the wall around it taken down": {
        "before": [
            "import gc\nfor one in gc.get_objects():\n    if type(one).__name__ in ('Library', '_DispatchModule'):\n"
            "        [getattr(one, n)() for n in ('_destroy', 'reset') if hasattr(one, n)]"
        ],
        "source": MEMBERS.format("torch", "'_soft' + 'max'") + LOGITS + "f(x, 1, False)",
    },
    "scipy": {"source": LOGITS + "torch.tensor(__import__('scipy.special').special.softmax(x.numpy(), 1))"},
    "the library": {"source": LOGITS + "torch.stack([ml.Exact()(q, k, v) for v in k])"},
}  # fmt: skip
LSE = "def attend(q, k, v, scale):\n    x = scale * q @ k.T\n    l = {}\n    return (x - l[:, None]).exp() @ v, l"
LOGSUMEXP = {
    "a string in two pieces": LSE.format("getattr(x, 'log' + 'sumexp')(1)"),
    "numpy": "import numpy as np\n" + LSE.format("torch.from_numpy(np.logaddexp.reduce(x.numpy(), 1))"),
    "a cumulated one": LSE.format("torch.ops.aten._logcumsumexp(x, 1)[:, -1]"),
}

# --- A1.8, A3: differences and differentiation -------------------------------------------------------

FIRST = """
def lse(q, k, scale):
    x = scale * q @ k.T
    top = x.amax(1, keepdim=True)
    return ((x - top).exp().sum(1).log() + top[:, 0])
def pull(q, k, scale):
    q, k = q.double(), k.double()
    h = 1e-6
    steps = torch.eye(q.shape[1], dtype=q.dtype) * h
    return torch.stack([{}], 1)
"""
CENTRAL = FIRST.format("(lse(q + d, k, scale) - lse(q - d, k, scale)) / (2 * h) for d in steps")
GRAD = "def pull(q, k, scale):\n    f = lambda q: (scale * q @ k.T).exp().sum(1).log().sum()\n    return "
IN_PLAIN = """
import {0}
def pull(q, k, scale):
    h, rows = 1e-6, []
    def lse(p):
        return {0}.log(sum({0}.exp(x) for x in (scale * k.double() @ p).tolist()))
    for p in q.double():
        rows.append([(lse(p + d) - lse(p - d)) / (2 * h) for d in torch.eye(len(p), dtype=p.dtype) * h])
    return torch.tensor(rows)
"""
GRADIENT = {
    "one-sided differences": FIRST.format("(lse(q + d, k, scale) - lse(q, k, scale)) / h for d in steps"),
    "central differences": CENTRAL,
    "a complex step": """
def pull(q, k, scale):
    def lse(q):
        x = scale * q @ k.double().T.to(q.dtype)
        top = x.real.amax(1, keepdim=True)
        return (x - top).exp().sum(1).log()
    steps = torch.eye(q.shape[1], dtype=torch.float64) * 1e-20j
    return torch.stack([lse(q.double() + d).imag / 1e-20 for d in steps], 1)
""",
    "differences in inference mode": CENTRAL.replace("    h = ", "    torch.inference_mode().__enter__()\n    h = "),
    "differences in a thread": CENTRAL.replace("def pull", "def inner") + IN_A_THREAD + "pull = threaded",
    "differences in another process": "import os\n"
    + CENTRAL.replace("def pull", "def inner")
    + "def pull(*args):\n    if os.fork() == 0:\n        torch.save(inner(*args), 'answer')\n        os.abort()\n"
    "    os.wait()\n    return torch.load('answer')",
    "differences with math": IN_PLAIN.format("math"),
    "differences with numpy": IN_PLAIN.format("numpy").replace("    h, rows", "    np = numpy\n    h, rows"),
    "powers of e": CENTRAL.replace("(x - top).exp()", "(math.e ** (x - top))"),
    "autograd": GRAD.replace("    f =", "    q.requires_grad_()\n    f =") + "torch.autograd.grad(f(q), q)[0]",
    "autograd, by a string": GRAD.replace("    f =", "    q.requires_grad_()\n    f =")
    + "getattr(torch.autograd, 'gr' + 'ad')(f(q), q)[0]",
    "autograd, by its members": "import inspect\n"
    + GRAD.replace("    f =", "    q.requires_grad_()\n    f =")
    + "dict(inspect.getmembers(torch.autograd))['gr' + 'ad'](f(q), q)[0]",
    "functions of functions": "import inspect\n" + GRAD + "dict(inspect.getmembers(torch.func))['gr' + 'ad'](f)(q)",
}  # fmt: skip
MEAN = """
def mean(p, k, v, s):
    v, x = v.double(), s * k @ p
    w = (x - x.max()).exp()
    return w @ v / w.sum()
"""
DIFFERENCES = """
def {0}:
    p, k, h = p.double(), k.double(), 1e-6
    steps = torch.eye(len(p), dtype=p.dtype) * h
    return torch.stack([({1} - {2}) / (2 * h * s) for d in steps], 1)
"""
MOMENTS = {
    "A3.2": MEAN + DIFFERENCES.format("covariance(p, k, s)", "mean(p + d, k, k, s)", "mean(p - d, k, k, s)"),
    "A3.4": MEAN + DIFFERENCES.format("dipole(p, k, v, s)", "mean(p + d, k, v, s)", "mean(p - d, k, v, s)"),
    "A3.8": MEAN + """
def quadrupole(d, p, k, v, s):
    p, k, v, h = p.double(), k.double(), v.double(), 1e-4
    rows = []
    for one in d.double():
        up, here, down = (mean(p + t * h * one, k, v, s) for t in (1, 0, -1))
        rows.append(here + (up - down) / (2 * h) + (up - 2 * here + down) / (2 * h * h))
    return torch.stack(rows)
""",
}  # fmt: skip


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_by_another_name_earns_nothing(fork_server, name):
    grade, _ = grade_one(fork_server, "A1.1", **SOFTMAX[name])
    assert grade.earned == 0, grade
    said = grade.reason + "; ".join(test["reason"] for test in grade.tests)
    assert "allow" in said or "Error" in said, grade


@pytest.mark.parametrize("name", LOGSUMEXP)
def test_a_log_sum_exp_of_torch_or_numpy_earns_nothing(fork_server, name):
    assert grade_one(fork_server, "A1.2", LOGSUMEXP[name])[0].earned == 0


@pytest.mark.parametrize("name", GRADIENT)
def test_a_gradient_without_a_formula_earns_nothing(fork_server, name):
    grade, _ = grade_one(fork_server, "A1.8", GRADIENT[name])
    assert grade.earned == 0, grade


@pytest.mark.parametrize("question", MOMENTS)
def test_moments_by_finite_differences_earn_nothing(fork_server, question):
    grade, _ = grade_one(fork_server, question, MOMENTS[question])
    assert grade.earned == 0
    assert "exponentials" in grade.reason


# --- A5: kernels ----------------------------------------------------------------------------------

FAKE = """
import torch
class Fake(InterpretedFunction):
    def __init__(self): pass
    def __getitem__(self, grid):
        return lambda x, out, N, **sizes: out.copy_(torch.stack([row.exp().sum().log() for row in x.view(-1, N)]))
row_lse_kernel = Fake()
"""
KERNEL = (
    "@triton.jit\ndef row_lse_kernel(x, out, N, BLOCK: tl.constexpr):\n    row = tl.program_id(0)\n    {}\n"
)
ALIEN = {
    "a class that looks like a kernel": (FAKE, "@triton.jit"),
    "a function without triton.jit": (KERNEL.replace("@triton.jit\n", "").format("pass"), "@triton.jit"),
    "a kernel made by a call": ("def plain(x, out, N, BLOCK): pass\nrow_lse_kernel = triton.jit(plain)", "@triton.jit"),
    "torch in a kernel": (KERNEL.format("tl.store(out + row, torch.logsumexp(x, 0))"), "'torch'"),
    "numpy of a handle": (KERNEL.format("tl.store(out + row, x.handle.data)"), "x.handle"),
    "a helper in Python": ("def help(x): return x\n" + KERNEL.format("tl.store(out + row, help(x))"), "'help'"),
    "an import in a kernel": (KERNEL.format("import numpy"), "import numpy"),
    "modules of the language": (KERNEL.format("tl.core.sys.modules"), "tl.core"),
    "a string that runs": (KERNEL.format("eval('1')"), "'eval'"),
    "a private part": (KERNEL.format("tl.load(x)._x"), "_x"),
    "a default argument": (KERNEL.replace("constexpr)", "constexpr = open('/x'))").format("pass"), "'open'"),
}  # fmt: skip
LONG = "@triton.jit\ndef long_lse_kernel(x, out, N, BLOCK: tl.constexpr):\n    row = tl.program_id(0)\n"
TWO_PASSES = (
    LONG
    + """    top = float("-inf")
    for start in range(0, N, BLOCK):
        i = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, tl.max(tl.load(x + row * N + i, mask=i < N, other=float("-inf")), axis=0))
    base = tl.where(top == float("-inf"), 0.0, top)
    total = 0.0
    for start in range(0, N, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(tl.load(x + row * N + i, mask=i < N, other=float("-inf")) - base), axis=0)
    tl.store(out + row, base + tl.log(total))
"""
)
ONE_TILE = (
    LONG
    + """    i = tl.arange(0, 4096)
    tile = tl.load(x + row * N + i, mask=i < N, other=float("-inf"))
    top = tl.max(tile, axis=0)
    base = tl.where(top == float("-inf"), 0.0, top)
    tl.store(out + row, base + tl.log(tl.sum(tl.exp(tile - base), axis=0)))
"""
)


@pytest.mark.parametrize("name", ALIEN)
def test_what_is_no_kernel_is_not_run(interpreter, name):
    source, said = ALIEN[name]
    grade, _ = grade_one(interpreter, "A5.2", source)
    assert grade.earned == 0, grade
    assert said in grade.reason
    assert grade.tests == []


def test_nothing_but_kernels_of_a_submission_runs(interpreter):
    """Other cells replace Triton's language, the launchers and what counts the loads."""
    extra = [
        "tl.exp = tl.load = None\nlaunch = row_lse = long_lse_loads = lambda *a: torch.zeros(9)\nloads = []",
        "1 / 0",
    ]
    grade, _ = grade_one(interpreter, "A5.3", extra=extra)
    assert grade.earned == grade.points, grade


# --- wrong answers that look right ------------------------------------------------------------------


def changed(question, *edits):
    (item,) = (item for item in master(question.split(".")[0]).items if item.name == question)
    (source,) = (cell.source for cell in solved(question.split(".")[0]) if cell.name == item.cell)
    for old, new in edits:
        assert old in source
        source = source.replace(old, new)
    return source


WRONG = {
    "a maximum that starts at 0": ("A1.6", [("torch.full((len(q),), -torch.inf)", "torch.zeros(len(q))")], 5.5),
    "ties to the higher position": (
        "A2.8",
        [("int(nearest.argmax())", "len(nearest) - 1 - int(nearest.flip(0).argmax())")],
        3,
    ),
    "masses without a maximum": (
        "A3.5",
        [("torch.softmax(torch.stack(masses, dim=1), dim=1)", "(lambda e: e / e.sum(0))(torch.stack(masses).exp()).T")],
        7,
    ),
    "half of n squared": ("A4.5", [("n * (n + 1) // 2", "n * n // 2")], 2),
    "a kernel's maximum that starts at 0": ("A5.3", [('largest = float("-inf")', "largest = 0.0")], 8),
    "a cluster's maximum that starts at 0": ("A5.5", [('    largest = float("-inf")', "    largest = 0.0")], 8),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_that_looks_right_loses_marks(fork_server, interpreter, name):
    question, edits, most = WRONG[name]
    server = interpreter if question.startswith("A5") else fork_server
    grade, _ = grade_one(server, question, changed(question, *edits))
    assert 0 < grade.earned <= most, grade


@pytest.mark.parametrize(
    ("source", "said"), [(TWO_PASSES, "numbers are read of"), (ONE_TILE, "a tile has 4096")]
)
def test_two_passes_and_one_large_tile_are_seen_by_their_loads(interpreter, source, said):
    grade, _ = grade_one(interpreter, "A5.3", source)
    assert grade.earned == grade.points - 2
    assert said in grade.tests[-1]["reason"]
