"""Which implementation runs the decode step."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from multipole_lab.attention.partials import Partial
from multipole_lab.decoding.step import decode_step


def step_function(backend: str, q: Tensor) -> Callable[..., Partial]:
    """``decode_step``, or the launcher in ``kernels`` of the same name and arguments.

    Parameters
    ----------
    backend : "torch", "triton", or "auto" for Triton on a CUDA device and torch elsewhere.
    q : the query, for its device.

    Raises
    ------
    ValueError : "triton" without a CUDA device, unless TRITON_INTERPRET=1.
    """
    cuda = q.device.type == "cuda"
    if backend == "torch" or (backend == "auto" and not cuda):
        return decode_step
    if not cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend is 'triton', which needs a CUDA device, and the cache is on {q.device}; "
            "use backend='torch' (or TRITON_INTERPRET=1 to try the kernels slowly)"
        )
    try:
        from multipole_lab.kernels.decode import decode_step as launcher
    except ImportError:
        if backend == "triton":
            raise
        return decode_step
    return launcher


def knows_spread(step: Callable[..., Partial]) -> bool:
    """Whether an implementation reads ``State.spreads``."""
    return step is decode_step or getattr(step, "knows_spread", False)
