"""What can be computed on this machine: the library, its kernels, its compilers, training, several processes."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import shutil
import sys
from collections.abc import Iterator

from multipole_lab.extras import is_there

from . import probe
from .finding import Feature, install, pip, system_package
from .packages import asked_by, missing_for


def library() -> Iterator[Finding]:
    """The library itself: whether everything that it needs is here, and torch can be imported."""
    found = missing_for("library", asked_by(""), "problem")
    yield from found
    if any(finding.level == "problem" for finding in found):
        return
    try:
        import torch  # noqa: F401
    except Exception as error:  # a half-installed torch raises OSError as well as ImportError
        text = f"torch does not import: {error}".splitlines()[0]
        yield Feature("library", text, "problem", install("", "torch", broken=True))
        return
    if not found:
        named = [name for name in ("torch", "transformers", "triton") if is_there(name)]
        yield Feature("library", ", ".join(f"{name} {metadata.version(name)}" for name in named))


def exact_attention() -> Iterator[Finding]:
    """Which backends of scaled_dot_product_attention run here, by running them."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    place, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    q = torch.randn(1, 2, 64, 64, device=place, dtype=dtype)
    runs = []
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                torch.nn.functional.scaled_dot_product_attention(q, q, q)
            runs.append(name.lower().removesuffix("_attention"))
        except RuntimeError:  # "No available kernel": this backend does not exist here
            continue
    yield Feature("exact attention", f"{', '.join(runs)} on {place}")


def triton_kernels() -> Iterator[Finding]:
    """Whether a Triton kernel compiles and runs (CUDA), or only Triton's interpreter (everywhere else)."""
    if not is_there("triton"):
        yield Feature(
            "Triton kernels", "no triton: the torch implementations run, on the CPU", "note", pip("triton")
        )
        return
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    # In a process of its own: TRITON_INTERPRET is read when Triton is imported, and a crash stays there.
    code = (
        "import torch; from multipole_lab.kernels.report.probe import double; "
        f"x = torch.ones(300, device={place!r}); assert bool((double(x) == 2).all())"
    )
    error = probe.trial([sys.executable, "-P", "-c", code], TRITON_INTERPRET="0" if place == "cuda" else "1")
    if error:
        yield Feature("Triton kernels", f"do not run: {error}", "warning", install("", "triton", broken=True))
    elif place == "cuda":
        yield Feature("Triton kernels", "compile and run")
    else:
        yield Feature("Triton kernels", "in Triton's interpreter: TRITON_INTERPRET=1, slow; no CUDA device")


def compiling() -> Iterator[Finding]:
    """torch.compile, which needs a C++ compiler on a CPU."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "c++"))), None)
    if found:
        yield Feature("torch.compile", found)
    else:
        fix = system_package(apt_get="g++", dnf="gcc-c++", pacman="gcc", zypper="gcc-c++")
        yield Feature("torch.compile", "no C++ compiler: --compile works on a GPU only", "note", fix)


def training() -> Iterator[Finding]:
    """`multipole-lab train`: accelerate, and what it trains on."""
    found = missing_for("training", asked_by("models", only=("accelerate",)))
    yield from found
    if found:
        return
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
        lone = count > 1 and not nccl
        yield Feature(
            "training",
            f"on {count} GPU{'s' * (count > 1)}"
            + ("; only one at a time, for NCCL is missing" if lone else ""),
            "warning" if lone else "ok",
            install("", "torch", broken=True) if lone else "",
        )
    else:
        yield Feature("training", "on the CPU: the preset tiny; the preset paper needs a GPU", "ok")


def processes() -> Iterator[Finding]:
    """A sequence spread over several processes."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_gloo_available():
        yield Feature("several processes", "torch.distributed with gloo")
    else:
        fix = install("", "torch", broken=True)
        yield Feature("several processes", "this torch has no torch.distributed with gloo", "note", fix)
