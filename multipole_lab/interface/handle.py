"""Keys and values that a cache hands to a model's attention without writing them out.

A transformers attention layer calls ``keys, values = cache.update(...)`` and then its attention function on
``(query, keys, values, mask)``. The cache cannot see the query in ``update``, and writing 32,768 sorted keys
back into the text's order for every token would cost more than attention itself. So ``update`` returns two
handles: tensors in all that is asked about them (shape, dtype, device), with PyTorch's ``__torch_function__``
protocol to notice three things. ``scaled_dot_product_attention`` on them becomes the decode step of the layer,
also after ``repeat_kv``, which some versions of transformers call before it (5.17 wherever there is a mask); any
other operation gets the true keys and values in the text's order, so that another attention function computes
exact dense attention, slower but never wrong.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_ATTENTION = torch.nn.functional.scaled_dot_product_attention
# What transformers' ``repeat_kv`` does to [B, Hk, N, D]: an axis behind the heads, expanded, and merged with them.
_REPEAT = (Tensor.__getitem__, Tensor.expand, Tensor.reshape)
_EVERY = slice(None)
_NEW_AXIS = (_EVERY, _EVERY, None, _EVERY, _EVERY)
_QUESTIONS = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.is_floating_point,
    torch.Tensor.__len__,
    *(
        getattr(torch.Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout", "is_nested")
    ),
}


class HandledLayer(Protocol):
    """What a handle asks of the layer that it is of; ``decoding.layer`` has one.

    Attributes
    ----------
    hierarchy : keys and values in an order of their own: their ``length``; ``keys`` and ``values``, each with its
        ``view()`` [B, Hk, N, D]; ``dense()``, both in the text's order.
    """

    hierarchy: Any

    def attend(
        self, query: Tensor, mask: Tensor | None, scale: float | None, softcap: float | None = None
    ) -> Tensor | None:
        """The attention of one new token, [B, Hq, 1, D] to [B, Hq, 1, Dv]; None where the mask forbids it."""


class Handle(Tensor):
    """The keys or the values of one clustered layer, [B, Hk, N, D]; see the module.

    Attributes
    ----------
    layer : where they live.
    which : 0 for keys, 1 for values.
    length : N, by which a handle knows that its layer has moved on.
    repeated : the steps of ``repeat_kv`` taken so far, each a function and its arguments; all three, or none, once
        heads are whole.
    """

    layer: HandledLayer
    which: int
    length: int
    repeated: tuple[tuple[Callable, tuple], ...]

    @staticmethod
    def of(layer: HandledLayer, which: int) -> Handle:
        """The handle for what ``layer`` holds now. It is good until the layer changes."""
        store = (layer.hierarchy.keys, layer.hierarchy.values)[which]
        handle = store.view().as_subclass(Handle)
        handle.layer, handle.which, handle.length, handle.repeated = layer, which, store.length, ()
        return handle

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Attention becomes the decode step; questions are answered; all else sees true tensors."""
        kwargs = kwargs or {}
        if func in _QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func is _ATTENTION:
            return _attention(*args, **kwargs)
        if _repeats(func, *args, **kwargs):
            return _repeated(func, *args)
        _tell(getattr(func, "__name__", func))
        return func(*tree_map(dense, args), **tree_map(dense, kwargs))


def stepped(
    query: Tensor,
    key: object,
    value: object,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Tensor | None:
    """What an attention function returns for handles, [B, 1, Hq, Dv]: the decode step, asked for in one call.

    None where something is no handle, or where only true keys and values can give what is wanted. DiffLlama mixes the
    values of two heads: those are no handle any more.
    """
    own = isinstance(key, Handle) and isinstance(value, Handle) and key.layer is value.layer
    if not own or dropout:
        return None
    out = key.layer.attend(query, mask, scale, softcap)
    return None if out is None else out.transpose(1, 2).contiguous()


def dense(x: object) -> object:
    """A handle's true keys or values in the text's order; anything else as it is."""
    if not isinstance(x, Handle):
        return x
    if x.length != x.layer.hierarchy.length:
        raise RuntimeError("these keys or values are from an earlier step of the cache, which has moved on")
    held = x.layer.hierarchy.dense()[x.which]
    for func, args in x.repeated:
        held = func(held, *args)
    return held


def _repeats(func: Callable, x: object, *args: object, **kwargs: object) -> bool:
    """Whether this is the next step of ``repeat_kv`` on a handle, as transformers writes it."""
    done = len(x.repeated) if isinstance(x, Handle) else len(_REPEAT)
    if done == len(_REPEAT) or func is not _REPEAT[done] or kwargs:
        return False
    if done == 0:
        index = args[0]
        return isinstance(index, tuple) and len(index) == 5 and all(map(_same, index, _NEW_AXIS))
    B, Hk, *_, N, D = x.shape
    if done == 1:
        return len(args) == 5 and args[:2] + args[3:] == (B, Hk, N, D)
    return args == (B, Hk * x.shape[2], N, D)


def _same(index: object, wanted: slice | None) -> bool:
    return index is None if wanted is None else isinstance(index, slice) and index == wanted


def _repeated(func: Callable, x: Handle, *args: object) -> Handle:
    """A handle of the shape that ``func`` makes; its keys and values are not touched."""
    with torch._C.DisableTorchFunctionSubclass():
        shape = args if func is Tensor.reshape else func(x, *args).shape
        handle = x.new_empty(()).expand(shape).as_subclass(Handle)
    handle.layer, handle.which, handle.length = x.layer, x.which, x.length
    handle.repeated = (*x.repeated, (func, args))
    return handle


def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """``scaled_dot_product_attention`` on handles."""
    own = isinstance(key, Handle) and isinstance(value, Handle) and key.layer is value.layer
    own = own and len(key.repeated) == len(value.repeated) in (0, len(_REPEAT))
    if own and dropout_p == 0 and not is_causal:
        out = key.layer.attend(query, attn_mask, scale)
        if out is not None:
            return out
    return _ATTENTION(
        query,
        dense(key),
        dense(value),
        dense(attn_mask),
        dropout_p,
        is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )


@functools.cache
def show_flex_attention_true_tensors() -> None:
    """Put ``dense`` before transformers' ``flex_attention``, which is compiled before any protocol is asked."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    flex = ALL_ATTENTION_FUNCTIONS["flex_attention"]

    @functools.wraps(flex)
    def on_true_tensors(module, query, key, value, attention_mask, **kwargs):
        if isinstance(key, Handle):
            _tell("flex_attention")
        return flex(module, query, dense(key), dense(value), attention_mask, **kwargs)

    AttentionInterface.register("flex_attention", on_true_tensors)


def _tell(function: object) -> None:
    """Once: what is exact here is also slow."""
    warnings.warn(
        f"the model's attention calls {function} on the keys instead of "
        "scaled_dot_product_attention, so MultipoleCache gives it exact dense attention, at more than its "
        "usual cost; decode inside `with cache.on(model):`",
        stacklevel=3,
    )
