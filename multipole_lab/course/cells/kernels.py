"""A question about kernels runs kernels: functions under ``@triton.jit``, and nothing else of a submission.

A class that looks like such a function, or torch called from inside one, would answer the question without Triton.
So a kernel may consist of Triton's language alone, and only what does is sent to the student's process.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from multipole_lab.course.cells.statements import Statement

_BUILTINS = {
    *(
        "range",
        "min",
        "max",
        "abs",
        "float",
        "int",
        "bool",
        "len",
        "sum",
        "print",
        "zip",
        "enumerate",
        "tuple",
        "list",
    ),
    *("NotImplementedError", "isinstance", "round", "pow", "slice"),
}
_OF_TRITON = {"cdiv", "next_power_of_2", "language", "jit"}
_NO_LANGUAGE = {
    "core",
    "extra",
    "random",
    "standard",
    "target_info",
}  # modules, through which all of Python is reached
_OF_VALUES = {
    *(
        "T",
        "abs",
        "argmax",
        "argmin",
        "associative_scan",
        "broadcast_to",
        "cast",
        "cdiv",
        "ceil",
        "cumprod",
        "cumsum",
    ),
    *(
        "exp",
        "exp2",
        "expand_dims",
        "flip",
        "floor",
        "gather",
        "item",
        "log",
        "log2",
        "logical_and",
        "logical_or",
        "max",
    ),
    *(
        "min",
        "permute",
        "ravel",
        "reduce",
        "reduce_or",
        "reshape",
        "rsqrt",
        "sort",
        "split",
        "sqrt",
        "store",
        "sum",
    ),
    *(
        "to",
        "trans",
        "view",
        "xor_sum",
        "shape",
        "dtype",
        "type",
        "element_ty",
        "scalar",
        "value",
        "numel",
        "sigmoid",
    ),
    *("append", "primitive_bitwidth", "is_floating", "is_int", "is_ptr"),
}


def kernels(found: list[Statement]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The kernels of a submission as cells, and why others are left out.

    Parameters
    ----------
    found : its statements. `tl` and `triton` are names that the assignment gives.

    Returns
    -------
    cells : (label, source): imports of Triton, constants, and the last definition of every kernel.
    refused : {name of a function under @triton.jit: what it uses that is no part of a kernel}.
    """
    around, languages, last = [], {"tl"}, {}
    for one in found:
        (tree,) = ast.parse(one.source).body
        if isinstance(tree, ast.FunctionDef) and _is_jitted(tree):
            last[tree.name] = one
        elif _is_triton(tree) or _is_constant(tree):
            around.append(one)
        if (
            _is_triton(tree)
            and tree.names[0].asname
            and tree.names[0].name in ("triton.language", "language")
        ):
            languages.add(tree.names[0].asname)
    known = {"triton", *languages, *last}.union(*(one.binds for one in around))
    refused = {}
    for name, one in last.items():
        if alien := next(_aliens(one, known, languages), None):
            refused[name] = alien
    cells = [(one.label, one.source) for one in around]
    cells += [
        (f"{one.label}: {name}", _plain(one.source)) for name, one in last.items() if name not in refused
    ]
    return cells, refused


def defined(source: str) -> list[str]:
    """The names of the kernels in a cell of a master."""
    return [
        one.name for one in ast.parse(source).body if isinstance(one, ast.FunctionDef) and _is_jitted(one)
    ]


def _is_jitted(tree: ast.FunctionDef) -> bool:
    return [ast.unparse(one) for one in tree.decorator_list] in (["triton.jit"], ["jit"], ["triton.jit()"])


def _plain(source: str) -> str:
    (one,) = ast.parse(source).body
    one.decorator_list = [ast.parse("triton.jit", mode="eval").body]
    return ast.unparse(one)


def _is_triton(tree: ast.stmt) -> bool:
    if isinstance(tree, ast.Import):
        return all(alias.name in ("triton", "triton.language") for alias in tree.names)
    return (
        isinstance(tree, ast.ImportFrom)
        and tree.module == "triton"
        and {a.name for a in tree.names} <= {"language", "jit"}
    )


def _is_constant(tree: ast.stmt) -> bool:
    """``NAME = 1.5``, also of type tl.constexpr."""
    if isinstance(tree, ast.Assign):
        names, value = tree.targets, tree.value
    elif isinstance(tree, ast.AnnAssign) and ast.unparse(tree.annotation) == "tl.constexpr":
        names, value = [tree.target], tree.value
    else:
        return False
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "tl.constexpr" and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, ast.UnaryOp):
        value = value.operand
    return isinstance(value, ast.Constant) and all(isinstance(name, ast.Name) for name in names)


def _aliens(one: Statement, known: set[str], languages: set[str]) -> Iterator[str]:
    """What stands in a kernel and is no part of Triton's language."""
    yield from sorted(one.uses - known - _BUILTINS)
    for node in ast.walk(ast.parse(one.source)):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.ClassDef | ast.AsyncFunctionDef):
            yield ast.unparse(node).split("\n")[0]
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner in languages or owner == "triton.language":
            alien = node.attr in _NO_LANGUAGE
        elif owner == "triton":
            alien = node.attr not in _OF_TRITON
        elif owner in {f"{language}.math" for language in languages}:
            alien = node.attr == "core"
        else:
            alien = node.attr not in _OF_VALUES
        if alien or node.attr.startswith("_"):
            yield ast.unparse(node)
