"""Counting exponentials: it tells a formula from finite differences, which evaluate the same thing many times."""

from __future__ import annotations

import cmath
import contextlib
import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# Of powers those count whose exponent is a tensor.
_OPERATORS = (
    *(
        f"{name}{kind}"
        for name in ("exp", "exp2", "expm1", "sigmoid", "tanh", "sinh", "cosh")
        for kind in (".default", "_.default", ".out")
    ),
    *("pow.Scalar", "pow.Tensor_Tensor", "pow_.Tensor", "pow.Tensor_Tensor_out", "pow.Scalar_out", "polar.default"),
    *("softplus.default", "silu.default", "elu.default", "log_sigmoid_forward.default"),
    "_scaled_dot_product_flash_attention_for_cpu.default",
    *("_softmax.default", "_log_softmax.default", "_masked_softmax.default", "_logcumsumexp.default"),
    *("logsumexp.default", "logaddexp.default", "logaddexp2.default", "logsumexp.out", "logaddexp.out"),
)  # fmt: skip
_MATH = ("exp", "exp2", "expm1", "pow", "sinh", "cosh", "tanh")
_NUMPY = ("exp", "exp2", "expm1", "sinh", "cosh", "tanh", "power", "float_power", "logaddexp", "logaddexp2")


class Exponentials:
    """``count`` grows by one for every number that goes through exp or one of its kin, from `install` on.

    It holds for the whole process and for ever: for torch, whichever way an operator is called, and for the functions
    of math, cmath and numpy. Automatic differentiation and inference mode end with it.
    """

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Put a counter before every operator and function."""
        library = torch._C._dispatch_library("IMPL", "aten", "", __file__, 0)
        for name in _OPERATORS:
            packet, overload = name.split(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload)
            library.impl(name.removesuffix(".default"), "AutogradCPU", self._counting(operator, _numel))
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))  # it holds as long as the library lives
        torch._C._InferenceMode = contextlib.nullcontext  # type: ignore[assignment, misc] # where nothing is counted
        for home, names in ((math, _MATH), (cmath, ("exp", "cosh", "sinh", "tanh")), (np, _NUMPY)):
            for name in names:
                setattr(home, name, self._counting(getattr(home, name), np.size))

    def _counting(self, function: Callable, size: Callable[[Any], int]) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += max(map(size, args), default=0)
            with torch._C._AutoDispatchBelowAutograd():
                return function(*args, **kwargs)

        return counted


def _numel(value: object) -> int:
    return value.numel() if isinstance(value, torch.Tensor) else 0
