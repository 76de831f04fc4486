"""Which implementation runs the decode step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from multipole_lab.attention.calls.backend import use_triton
from multipole_lab.attention.partials import Partial
from multipole_lab.decoding.step.reference import decode_step


def step_function(backend: str, q: Tensor, v: Tensor) -> Callable[..., Partial]:
    """``decode_step``, or the launcher in ``kernels`` of the same name and arguments.

    Parameters
    ----------
    backend : "torch", "triton", or "auto" for Triton where it can run.
    q, v : the query and the values, for their device, dtype and head sizes.

    Raises
    ------
    ValueError, TypeError : "triton" for a device, dtype or head size that the kernels do not support.
    """
    if not use_triton(backend, q, v):
        return decode_step
    from multipole_lab.kernels.decode.step import decode_step as launcher

    return launcher


def knows_spread(step: Callable[..., Partial]) -> bool:
    """Whether an implementation reads ``State.spreads``."""
    return step is decode_step or getattr(step, "knows_spread", False)
