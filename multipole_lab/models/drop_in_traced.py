"""A layer's attention by a method as ``torch.compile`` traces it: part of the model's graph, no value looked at."""

from __future__ import annotations

from torch import Tensor, nn

from multipole_lab.attention import Method
from multipole_lab.attention.calls.opaque import written
from multipole_lab.interface.functions import Hook, Output, outside
from multipole_lab.interface.masked import apply, apply_unseen
from multipole_lab.interface.masks import LazyMask, MaskRequest, structure_of
from multipole_lab.interface.refusing import by_itself, check_positions, stays_exact, unhonoured, where


def attend_traced(
    method: Method,
    layer: int | None,
    named: bool,
    strict: bool,
    eagerly: Hook,
    former: Hook,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | MaskRequest | None,
    **kwargs: object,
) -> Output:
    """What ``DropIn.attend`` computes, of the same tensors, where a graph is made of it.

    Parameters
    ----------
    method : of this layer.
    layer, named, strict : its number, whether the user named it, and wants refusals.
    eagerly : computes the same outside any graph, which then ends before it: for packed texts that are announced by
        ``cu_seq_lens_q``, for masks from outside the graph, and for methods that no operator can name.
    former : what the model computed before.

    Raises
    ------
    ValueError : as ``DropIn.attend``; for masks that only the running graph sees, when it runs. ``position_ids`` that
        begin again inside a text are a RuntimeError then.
    """
    made_before = isinstance(attention_mask, LazyMask)
    if made_before or kwargs.get("cu_seq_lens_q") is not None or written(method) is None:
        return outside(eagerly, module, query, key, value, attention_mask, **kwargs)
    request = attention_mask if isinstance(attention_mask, MaskRequest) else None
    if attention_mask is None:
        given = kwargs.get("is_causal")
        causal = bool(getattr(module, "is_causal", True) if given is None else given)
        structure = structure_of(None, query.shape[2], key.shape[2], lambda: causal)
    else:
        structure = None if request is None else request.known()
    if stays_exact(method, named, query, key, structure):
        return former(module, query, key, value, attention_mask, **kwargs)
    refusal = unhonoured(method, where(layer, module), module, structure, kwargs)
    if refusal is not None:
        if strict:
            raise ValueError(refusal.message)
        return by_itself(former, module, query, key, value, attention_mask, **kwargs)
    scale, sinks = kwargs.get("scaling"), kwargs.get("s_aux")
    if structure is None:
        whole = attention_mask if request is None else request.in_full()
        out = apply_unseen(method, query, key, value, whole, scale, sinks, strict)
    else:
        check_positions(structure, kwargs.get("position_ids"), query.shape[2])
        out = apply(method, query, key, value, structure, scale, sinks)
    return out.transpose(1, 2).contiguous(), None
