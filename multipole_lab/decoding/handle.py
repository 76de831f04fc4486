"""Keys and values that a cache hands to a model's attention without writing them out.

A transformers attention layer calls ``keys, values = cache.update(...)`` and then its attention function on
``(query, keys, values, mask)``. The cache cannot see the query in ``update``, and writing 32,768 sorted keys
back into the text's order for every token would cost more than attention itself. So ``update`` returns two
handles: tensors in all that is asked about them (shape, dtype, device), with PyTorch's ``__torch_function__``
protocol to notice two things. ``scaled_dot_product_attention`` on them becomes the decode step of the layer;
any other operation gets the true keys and values in the text's order, so that another attention function
computes exact dense attention, slower but never wrong.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from multipole_lab.decoding.layer import ClusteredLayer

_ATTENTION = torch.nn.functional.scaled_dot_product_attention
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


class Handle(Tensor):
    """The keys or the values of one clustered layer, [B, Hk, N, D]; see the module.

    Attributes
    ----------
    layer : where they live.
    which : 0 for keys, 1 for values.
    """

    layer: ClusteredLayer
    which: int

    @staticmethod
    def of(layer: ClusteredLayer, which: int) -> Handle:
        """The handle for what ``layer`` holds now. It is good until the layer changes."""
        store = (layer.hierarchy.keys, layer.hierarchy.values)[which]
        handle = store.view().as_subclass(Handle)
        handle.layer, handle.which, handle.length = layer, which, store.length
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
        _tell(func)
        return func(*tree_map(dense, args), **tree_map(dense, kwargs))


def dense(x: object) -> object:
    """A handle's true keys or values in the text's order; anything else as it is."""
    if not isinstance(x, Handle):
        return x
    if x.length != x.layer.hierarchy.length:
        raise RuntimeError("these keys or values are from an earlier step of the cache, which has moved on")
    return x.layer.hierarchy.dense()[x.which]


def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """``scaled_dot_product_attention`` on handles."""
    own = isinstance(key, Handle) and isinstance(value, Handle) and key.layer is value.layer
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


def _tell(func: object) -> None:
    """Once: what is exact here is also slow."""
    warnings.warn(
        f"the model's attention calls {getattr(func, '__name__', func)} on the keys instead of "
        "scaled_dot_product_attention, so MultipoleCache gives it exact dense attention, at more than its "
        "usual cost; decode inside `with cache.on(model):`",
        stacklevel=3,
    )
