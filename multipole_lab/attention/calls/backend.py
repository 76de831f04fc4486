"""Which implementation runs: torch everywhere, Triton where its kernels can."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.attention.calls.transforms import transformed
from multipole_lab.suggesting import check_choice

BACKENDS = ("auto", "torch", "triton")
# Queries in all, over batch and heads: a decoding step has fewer.
MANY = 4096


def check_backend(backend: object) -> None:
    """One of the known backends."""
    check_choice("backend", backend, BACKENDS)


def use_triton(backend: str, q: Tensor, v: Tensor) -> bool:
    """Whether the Triton kernels run for these tensors.

    "auto" takes them on a CUDA device of compute capability 7.5 and up, for float16, bfloat16 and float32 and head
    sizes 16 to 256, and torch under forward mode and the transforms of ``torch.func``, which kernels do not have.
    "triton" takes them always; where they cannot run, they say why. On a CPU they run only under TRITON_INTERPRET=1.

    Raises
    ------
    ValueError, TypeError : "triton" for a device, dtype or head size that the kernels do not support.
    """
    if backend == "triton":
        from multipole_lab.kernels.common.checks import check_tensors

        check_tensors('backend="triton"', q=q, v=v)
        return True
    if backend == "torch" or not q.is_cuda or transformed():
        return False
    from multipole_lab.kernels.common.checks import DTYPES, MAX_HEAD, MIN_CAPABILITY, MIN_HEAD

    new_enough = torch.cuda.get_device_capability(q.device) >= MIN_CAPABILITY
    return new_enough and q.dtype in DTYPES and all(MIN_HEAD <= x.shape[-1] <= MAX_HEAD for x in (q, v))


def check_affordable(budget: int, backend: str, q: Tensor) -> None:
    """Refuse keys chosen for each of many queries on a GPU, unless a backend was asked for by name.

    Raises
    ------
    ValueError : gathering other keys for every query takes far longer there than exact attention.
    """
    queries = q.shape[0] * q.shape[1] * q.shape[2]
    if budget and backend == "auto" and q.is_cuda and queries > MANY:
        raise ValueError(
            f"budget is {budget} for {queries:,} queries on a GPU, where gathering keys for each takes far longer than "
            f'exact attention; allowed are at most {MANY:,} queries, budget=0, or backend="torch" where time does not '
            "matter. MuSe(near=...) opens clusters for many queries at once, and MultipoleCache decodes with a budget"
        )
