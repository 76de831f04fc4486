"""What questions may forbid: ready-made functions of torch and other packages that would answer them."""

from __future__ import annotations

import ast
import math

_SOFTMAX = [
    f"{owner}.{name}"
    for owner, names in {
        "torch": ("softmax", "log_softmax", "logsumexp", "logaddexp", "logcumsumexp", "logaddexp2"),
        "torch.Tensor": ("softmax", "log_softmax", "logsumexp", "logaddexp", "logcumsumexp", "logaddexp2"),
        "torch.special": ("softmax", "log_softmax", "logsumexp"),
        "torch.nn": ("Softmax", "LogSoftmax", "MultiheadAttention"),
        "torch.nn.functional": (
            "softmax",
            "log_softmax",
            "scaled_dot_product_attention",
            "multi_head_attention_forward",
            "cross_entropy",
        ),
        "numpy": ("logaddexp", "logaddexp2"),
        "torch._refs": ("softmax", "log_softmax", "logsumexp", "logaddexp", "logaddexp2"),  # torch in Python
        "torch._refs.special": ("softmax", "log_softmax", "logsumexp"),
        "torch._refs.nn.functional": ("softmax", "log_softmax", "softmin"),
        "torch._decomp.decompositions": ("_softmax", "_log_softmax", "_safe_softmax"),
    }.items()
    for name in names
]
_AUTOGRAD = [
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.Tensor.backward",
    *(f"torch.autograd.functional.{name}" for name in ("jacobian", "hessian", "vjp", "jvp", "hvp", "vhp")),
    *(
        f"torch.func.{name}"
        for name in ("grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "grad_and_value")
    ),
    # What they all end in, by whatever name they were called.
    *(f"torch.autograd.{name}_engine_run_backward" for name in ("", "graph.")),
    "torch.autograd.Variable._execution_engine",
    "torch._C._enter_dual_level",
    *(
        f"torch.{home}._{kind}_increment_nesting"
        for home in ("_C._functorch", "_functorch.eager_transforms")
        for kind in ("grad", "jvp")
    ),
]
GROUPS = {"softmax": _SOFTMAX, "autograd": _AUTOGRAD, "torch": []}

# The operators under them: these do not run in the process of a question that forbids the group, whoever calls them.
_OPERATORS = {
    "softmax": (
        *(f"{name}{out}" for name in ("_softmax", "_log_softmax", "logsumexp", "logaddexp") for out in ("", ".out")),
        *("logaddexp2", "logaddexp2.out", "_logcumsumexp", "_logcumsumexp.out", "_masked_softmax", "_safe_softmax"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"),
        *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
    )
}  # fmt: skip

# Ways around the names above. None is needed for any answer.
_BACK_DOORS = {
    *("_C", "_VF", "ops", "flex_attention", "importlib", "attrgetter", "methodcaller", "library"),
    *("__import__", "__subclasses__", "__globals__", "__dict__", "__builtins__", "__code__", "__closure__"),
    *("__self__", "__mro__", "__bases__", "__base__", "__getattribute__", "__wrapped__"),
}
_DOORS_BY_NAME = {"eval", "exec", "compile", "globals", "locals", "vars"}
# What a Triton kernel has no use for; the group "torch" is looked for in the solution's text only.
_OUTSIDE_KERNELS = {"torch", "np", "numpy", "ctypes", "gc", "inspect", "sys"}

# Packages with ready answers, which questions without library calls do not see.
PACKAGES = ("multipole_lab", "scipy", "sklearn", "transformers")


def names(groups: tuple[str, ...]) -> list[str]:
    """The dotted names of some groups."""
    return [name for group in groups for name in GROUPS[group]]


def operators(groups: tuple[str, ...]) -> list[str]:
    """The operators of ATen that do not run where these groups are forbidden."""
    return [name for group in groups for name in _OPERATORS.get(group, ())]


def found_in(source: str, groups: tuple[str, ...]) -> str | None:
    """The first forbidden name that a solution uses, or None. For sources that do not parse, None."""
    if not groups:
        return None
    unwanted = {name.rsplit(".", 1)[1] for name in names(groups)} | _BACK_DOORS
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    private = None
    for node in ast.walk(tree):
        for name in _used(node):
            if name in unwanted or ("torch" in groups and name in _OUTSIDE_KERNELS):
                return name
        private = private or _way_around(node, unwanted)
    return private


def _used(node: ast.AST) -> list[str]:
    """The names that may be those of forbidden functions, at one node of a syntax tree."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Name):
        return [node.id] if node.id in _BACK_DOORS | _OUTSIDE_KERNELS else []
    if isinstance(node, ast.Import | ast.ImportFrom):
        imported = [part for alias in node.names for part in alias.name.split(".")]
        return imported + (getattr(node, "module", None) or "").split(".")
    return []


def _way_around(node: ast.AST, unwanted: set[str]) -> str | None:
    """What reaches any function without naming it; and the powers of e, which are exponentials that nobody counts."""
    if isinstance(node, ast.Name) and node.id in _DOORS_BY_NAME:
        return node.id
    if isinstance(node, ast.Import | ast.ImportFrom):
        return next((part for part in _used(node) if _is_private(part)), None)
    if isinstance(node, ast.Attribute) and _is_private(node.attr):
        return None if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else node.attr
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        asked = node.args[1] if len(node.args) > 1 else None
        if not isinstance(asked, ast.Constant):
            return "getattr"
        return str(asked.value) if asked.value in unwanted or _is_private(str(asked.value)) else None
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and not isinstance(node.right, ast.Constant)
    ):
        base = node.left
        is_e = isinstance(base, ast.Attribute) and base.attr == "e"
        is_e |= (
            isinstance(base, ast.Constant)
            and isinstance(base.value, float)
            and abs(base.value - math.e) < 0.02
        )
        return "e **" if is_e else None
    return None


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"
