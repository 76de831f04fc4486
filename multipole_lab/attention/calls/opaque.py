"""A method's call as one operator, for ``torch.compile``: one node in its graph, whatever the length.

Traced, every level of a causal recursion and every block of a window would be a piece of the graph, and every size in
it an expression in the length, which takes minutes to reason about. The backward computes the forward again, so that
nothing but the inputs is kept between the two.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import fields
from functools import lru_cache, partial

import torch
from torch import Tensor

from multipole_lab.attention.calls.replay import without_graphs
from multipole_lab.attention.calls.transforms import (
    differentiable_gradients,
    differentiated_again,
    without_autocast,
)
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype


def written(method: object) -> str | None:
    """A method as text, which an operator takes; None where its class or a field cannot be written."""
    cls = type(method)
    values = {field.name: _constant(getattr(method, field.name)) for field in fields(method)}
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in values.values())
    if not plain or "<" in cls.__qualname__:  # defined in a function
        return None
    arguments = ", ".join([f"{name!r}: {value!r}" for name, value in values.items()])
    return f"{cls.__module__}:{cls.__qualname__}:{{{arguments}}}"


def _constant(value: object) -> object:
    """The value; a number that ``torch.compile`` takes for a variable becomes the constant it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


@lru_cache(maxsize=256)
def read(text: str) -> object:
    """The method that was written."""
    module, name, values = text.split(":", 2)
    cls = importlib.import_module(module)
    for part in name.split("."):
        cls = getattr(cls, part)
    return cls(**ast.literal_eval(values))


@torch.library.custom_op("multipole_lab::attend", mutates_args=())
def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool, method: str
) -> tuple[Tensor, Tensor]:
    """The partial of a written method; mask [B, Nk] or None."""
    out, lse = _call(q, k, v, mask, scale, causal, method)
    return out.contiguous(), lse.contiguous()


@attend.register_fake
def _(q, k, v, mask, scale, causal, method):
    lse = q.new_empty(q.shape[:-1], dtype=statistics_dtype(q.dtype))
    return q.new_empty(*q.shape[:-1], v.shape[-1]), lse


@torch.library.custom_op("multipole_lab::attend_backward", mutates_args=())
def attend_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool,
    method: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients for q, k and v, by differentiating the call once more."""
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    # Inside an operator dispatch passes automatic differentiation by; here it is what is wanted.
    key = torch._C.DispatchKey.AutogradFunctionality
    with torch._C._SetExcludeDispatchKeyGuard(key, False), torch.enable_grad():
        results = _call(*inputs, mask, scale, causal, method)
        grads = torch.autograd.grad(results, inputs, (dout, dlse), materialize_grads=True)
    return tuple(grad.contiguous() for grad in grads)


@attend_backward.register_fake
def _(dout, dlse, q, k, v, mask, scale, causal, method):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _call(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool, method: str
) -> Partial:
    one = read(method)
    # A backward may be called inside a region of autocast, and the compiler has graphs of its own.
    with without_autocast(q.device.type), without_graphs():
        return (one._causal if causal else one._full)(q, k, v, scale, mask)


def _save(ctx, inputs, output):
    q, k, v, mask, ctx.scale, ctx.causal, ctx.method = inputs
    ctx.save_for_backward(q, k, v, mask)


def _backward(ctx, dout, dlse):
    q, k, v, mask = ctx.saved_tensors
    dout = q.new_zeros(*q.shape[:-1], v.shape[-1]) if dout is None else dout
    dlse = q.new_zeros(q.shape[:-1], dtype=statistics_dtype(q.dtype)) if dlse is None else dlse
    if differentiated_again():
        call = partial(_call, mask=mask, scale=ctx.scale, causal=ctx.causal, method=ctx.method)
        grads = differentiable_gradients(call, (q, k, v), (dout, dlse))
    else:
        grads = attend_backward(dout, dlse, q, k, v, mask, ctx.scale, ctx.causal, ctx.method)
    return *grads, None, None, None, None


attend.register_autograd(_backward, setup_context=_save)
