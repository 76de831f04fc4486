"""What surrounds a call: which derivative is asked for, whether values may be looked at, autocast.

Operators with a backward of their own know reverse mode only. Forward mode would find no tangent behind one and take
that for zero, and the transforms of ``torch.func`` cannot look into it. So where one of them is at work, the formula
itself runs, which torch differentiates in every mode; it keeps its temporaries and so takes more memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether forward mode (``torch.autograd.forward_ad``) or a transform of ``torch.func`` is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiated_again() -> bool:
    """Asked in a backward: whether its own derivative is wanted (``create_graph=True``)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def differentiable_gradients(
    call: Callable[..., tuple[Tensor, Tensor]], inputs: Sequence[Tensor], upstream: tuple[Tensor, Tensor]
) -> Iterator[Tensor | None]:
    """The gradients of ``call(*inputs)``, which can be differentiated again; None for an input without one."""
    inputs = [x.view_as(x) for x in inputs]  # still part of the graph that they come from
    wanted = [x for x in inputs if x.requires_grad]
    with without_autocast(inputs[0].device.type):
        results = call(*inputs)
    grads = iter(torch.autograd.grad(results, wanted, upstream, create_graph=True, materialize_grads=True))
    return (next(grads) if x.requires_grad else None for x in inputs)


def has_values(x: Tensor) -> bool:
    """Whether the values of a tensor may be looked at: not of meta and fake ones, nor under ``torch.func.vmap``."""
    if x.is_meta or isinstance(x, FakeTensor):
        return False
    stack = torch._C._functorch.get_interpreter_stack() if torch._C._are_functorch_transforms_active() else ()
    return all(one.key() != torch._C._functorch.TransformType.Vmap for one in stack)


def may_look(*tensors: Tensor) -> bool:
    """Whether the host may look at the values of tensors here: they have some, and no compiler is tracing."""
    return not torch.compiler.is_compiling() and all(has_values(x) for x in tensors)


def autocast_exists(device: str) -> bool:
    """Whether a type of device knows autocast; torch has a question for that, which torch.compile cannot trace."""
    return device != "meta"


def without_autocast(device: str) -> contextlib.AbstractContextManager:
    """Autocast switched off, where there is one."""
    return torch.autocast(device, enabled=False) if autocast_exists(device) else contextlib.nullcontext()
