"""What questions may forbid: ready-made functions of torch and other packages that would answer them."""

from __future__ import annotations

import ast

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
]
GROUPS = {"softmax": _SOFTMAX, "autograd": _AUTOGRAD, "torch": []}

# Ways around the names above. None is needed for any answer.
_BACK_DOORS = {
    "_C",
    "_VF",
    "ops",
    "flex_attention",
    "__import__",
    "__subclasses__",
    "__globals__",
    "importlib",
}

# What a Triton kernel has no use for; the group "torch" is looked for in the solution's text only.
_OUTSIDE_KERNELS = {"torch", "np", "numpy", "ctypes", "gc", "inspect", "sys"}

# Packages with ready answers, which questions without library calls do not see.
PACKAGES = ("multipole_lab", "scipy", "sklearn", "transformers")


def names(groups: tuple[str, ...]) -> list[str]:
    """The dotted names of some groups."""
    return [name for group in groups for name in GROUPS[group]]


def found_in(source: str, groups: tuple[str, ...]) -> str | None:
    """The first forbidden name that a solution uses, or None. For sources that do not parse, None."""
    if not groups:
        return None
    unwanted = {name.rsplit(".", 1)[1] for name in names(groups)} | _BACK_DOORS
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in ast.walk(tree):
        used = []
        if isinstance(node, ast.Attribute):
            used = [node.attr]
        elif isinstance(node, ast.Name):
            outside = _OUTSIDE_KERNELS if "torch" in groups else set()
            used = [node.id] if node.id in _BACK_DOORS else []
            if node.id in outside:
                return node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            used = [part for alias in node.names for part in alias.name.split(".")]
            used += (getattr(node, "module", None) or "").split(".")
        for name in used:
            if name in unwanted or ("torch" in groups and name in _OUTSIDE_KERNELS):
                return name
    return None
