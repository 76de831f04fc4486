"""Which derivatives there are: first ones in reverse mode. Every other is refused in words, never zero in silence.

Kernels leave no graph behind, so torch itself would drop a second derivative without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

ALLOWED = (
    "allowed are first derivatives in reverse mode (backward, torch.autograd.grad); "
    'methods with backend="torch" have others'
)


def no_second(operation: str) -> str:
    """The words in which a second derivative is refused."""
    return f"{operation} has no second derivative (a gradient penalty, a Hessian); {ALLOWED}"


def no_forward_mode(operation: str) -> str:
    """The words in which forward mode is refused."""
    return f"{operation} has no derivative in forward mode (jvp, jacfwd, dual numbers); {ALLOWED}"


def no_transform(operation: str) -> str:
    """The words in which the transforms of torch.func are refused."""
    return (
        f"{operation} cannot run inside a transform of torch.func (grad, vjp, jvp, vmap, jacrev, ...); {ALLOWED}, "
        "and a batch as the first dimension instead of vmap"
    )


class Refused(torch.autograd.Function):
    """Tensors as they are, whose derivative with respect to `sources` is refused: words, sources and tensors."""

    @staticmethod
    def forward(ctx: Any, words: str, sources: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.words = words
        return tuple(x.view_as(x) for x in tensors[sources:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError(ctx.words)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError(ctx.words)


def refused(
    words: str, sources: tuple[Tensor | None, ...], *tensors: Tensor | None
) -> tuple[Tensor | None, ...]:
    """`tensors` as they are; a derivative of theirs with respect to one of `sources` raises with `words`.

    Nothing happens where no source requires a gradient, or none is recorded.
    """
    sources = tuple(x for x in sources if x is not None and x.requires_grad)
    given = [x for x in tensors if x is not None]
    if not (torch.is_grad_enabled() and sources and given):
        return tensors
    marked = iter(Refused.apply(words, len(sources), *sources, *given))
    return tuple(None if x is None else next(marked) for x in tensors)


# What runs a computation that knows nothing but its tensors, whose results depend on a name besides; a caller may give
# one that remembers it.
Run = Callable[..., tuple[Tensor, ...]]


def run_now(
    name: Hashable, compute: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Compute, and remember nothing."""
    return compute(*tensors)


class KernelFunction(torch.autograd.Function):
    """What every Function of this folder is: one whose derivatives are right or refused, by being a subclass.

    operation : its name in a refusal. twice : whether its backward is made of operations that torch differentiates
    itself, so that a second derivative is right.
    The saved tensors are what a second derivative would be taken of: inputs are made ready before `apply`, and saved as
    they come.
    """

    operation = "a kernel"
    twice = False

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not cls.twice:
            cls.backward = staticmethod(_once(cls.operation, cls.backward))

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        check_transform(cls.operation)
        return super().apply(*arguments)

    @classmethod
    def jvp(cls, ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError(no_forward_mode(cls.operation))


def _once(operation: str, backward: Callable) -> Callable:
    """A backward whose results have no derivative; it is not asked where nothing comes from above."""

    @wraps(backward)
    def once(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(x is None for x in upstream):
            return (None,) * len(ctx.needs_input_grad)
        with torch.no_grad():
            grads = backward(ctx, *upstream)
        return refused(no_second(operation), (*upstream, *ctx.saved_tensors), *grads)

    return once


def check_transform(operation: str) -> None:
    """Raise NotImplementedError inside a transform of torch.func, whose tensors have no memory of their own."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        raise NotImplementedError(no_transform(operation))


def check_tangents(operation: str, *tensors: Tensor) -> None:
    """Raise NotImplementedError where a tensor is a dual number, for what runs outside of a Function."""
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(no_forward_mode(operation))
