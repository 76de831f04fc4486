"""Compile every kernel of the table ahead of time for each target and report what it needs; no GPU is used.

The launchers run on `meta` tensors inside `launch.recording`, so what is compiled here has the tile sizes,
argument types and alignments of the real thing. ptxas and cuobjdump come with the triton wheel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..common.launch import Launch, interpreting, recording
from ..common.tiles import Target
from .problem import Problem
from .table import ENTRIES, Entry

TARGETS = (
    Target(75, 64),
    Target(80, 163),
    Target(86, 99),
    Target(89, 99),
    Target(90, 227),
    Target(100, 227),
    Target(120, 99),
)
_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Compiled:
    """One kernel on one target. spilled: bytes of local memory per thread; error: why it did not compile."""

    launcher: str
    kernel: str
    target: Target
    problem: Problem
    tile: str
    shared: int = 0
    registers: int = 0
    spilled: int = 0
    error: str = ""

    @property
    def good(self) -> bool:
        """Compiled, within the shared memory of the target, and nothing spilled."""
        return not self.error and self.shared <= self.target.shared_kb * 1024 and self.spilled == 0


def specialise(
    launch: Launch,
) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], dict[tuple[int, ...], list]]:
    """The signature, constants and alignments with which Triton's own launch would compile `launch`.

    Constants and alignments are by place: (index of the parameter,), or (index, place in it) inside a tuple.
    """
    signature, constants, attributes = {}, {}, {}

    def kind(place: tuple[int, ...], value: Any, constant: bool) -> Any:
        if isinstance(value, tuple) and not constant:
            return tuple(kind((*place, i), inner, False) for i, inner in enumerate(value))
        if constant or value is None or (type(value) is int and value == 1):
            constants[place] = value
            return "constexpr"
        if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[place] = [["tt.divisibility", 16]]
        if isinstance(value, Tensor):
            return _TYPES[value.dtype]
        if isinstance(value, int):
            return "i32" if -(2**31) <= value < 2**31 else "i64"
        return "fp32"

    for index, parameter in enumerate(launch.kernel.params):
        value = launch.args[parameter.name]
        signature[parameter.name] = kind((index,), value, parameter.is_constexpr)
    return signature, constants, attributes


def compile_launch(launcher: str, launch: Launch, target: Target, problem: Problem) -> Compiled:
    """Compile one recorded launch for one target."""
    tile = launch.tile
    name = launch.kernel.fn.__name__
    described = f"{tile.rows}x{tile.cols} w{tile.warps} s{tile.stages}"
    base = {"launcher": launcher, "kernel": name, "target": target, "problem": problem, "tile": described}
    signature, constants, attributes = specialise(launch)
    try:
        compiled = triton.compile(
            ASTSource(launch.kernel, signature, constants, attributes),
            target=GPUTarget("cuda", target.capability, 32),
            options={"num_warps": tile.warps, "num_stages": tile.stages},
        )
    except Exception as problem_found:  # any failure of the compiler is a line of the report
        return Compiled(**base, error=" ".join(f"{type(problem_found).__name__}: {problem_found}".split()))
    registers, spilled = resources(compiled.asm["cubin"])
    return Compiled(**base, shared=compiled.metadata.shared, registers=registers, spilled=spilled)


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory per thread, as cuobjdump reads them from a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = {key: int(number) for key, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def report(
    problems: Iterable[Problem], targets: Iterable[Target] = TARGETS, only: str = ""
) -> Iterator[Compiled]:
    """Compile every launcher whose name contains `only`, for every problem and target; one row per kernel."""
    if interpreting():
        raise RuntimeError("the compile report needs compiled kernels: unset TRITON_INTERPRET")
    problems = tuple(problems)
    for entry in ENTRIES:
        if only not in entry.name:
            continue
        for target in targets:
            for problem in problems:
                yield from _report_entry(entry, target, problem)


def _report_entry(entry: Entry, target: Target, problem: Problem) -> Iterator[Compiled]:
    with recording(target) as launches:
        entry.example(problem)
    for launch in launches:
        yield compile_launch(entry.name, launch, target, problem)
