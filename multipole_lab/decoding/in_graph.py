"""The step of one layer as one node of a graph of ``torch.compile``, which need not know what a cache is.

What a cache holds grows, and what it does in a step depends on what it holds: nothing that a graph could keep. So while
a model is traced, ``update`` stores nothing and returns the new keys and values in a ``Slot``; the attention function
makes one node of it, an operator of the library's own, and that stores them and attends when the graph runs. The
cache is told by a number in a tensor, so that a graph is good for every cache; CUDA graphs leave the node out.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from multipole_lab.decoding.store.padding import learn_prompt
from multipole_lab.interface.handle import Handle, dense, stepped

if TYPE_CHECKING:
    from multipole_lab.decoding.cache import MultipoleCache

_CACHES: weakref.WeakValueDictionary[int, MultipoleCache] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


class Slot(NamedTuple):
    """New keys and values [B, Hk, n, D] on their way to a layer, in the place of all its keys and values."""

    ticket: Int[Tensor, ""]
    layer: int
    key: Float[Tensor, "B Hk n D"]
    value: Float[Tensor, "B Hk n Dv"]


def ticket(cache: MultipoleCache) -> Int[Tensor, ""]:
    """The number of a cache, on the host, by which a graph finds it as long as it lives."""
    number = next(_NUMBERS)
    _CACHES[number] = cache
    return torch.tensor(number)


def attention(
    query: Float[Tensor, "B Hq n D"],
    slot: Slot,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
) -> Float[Tensor, "B n Hq Dv"]:
    """What an attention function returns for a slot."""
    return torch.ops.multipole_lab.cached_attention(
        query, slot.key, slot.value, slot.ticket, slot.layer, mask, scale, softcap
    )


@torch.library.custom_op(
    "multipole_lab::cached_attention", mutates_args=(), tags=(torch._C.Tag.cudagraph_unsafe,)
)
def _cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ticket: Tensor,
    layer: int,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    from multipole_lab.decoding.interface import soft_capped

    cache = _CACHES[int(ticket)]
    keys, values = cache.update(key, value, layer)
    learn_prompt(keys, mask)
    out = cache.layers[layer].attend(query, mask, scale, softcap) if isinstance(keys, Handle) else None
    if out is None:
        keys, values = dense(keys), dense(values)
        if softcap is None:
            module = SimpleNamespace(num_key_value_groups=query.shape[1] // keys.shape[1], is_causal=True)
            return sdpa_attention_forward(module, query, keys, values, mask, scaling=scale)[0]
        out = soft_capped(query, keys, values, mask, scale, softcap)
    return out.transpose(1, 2).clone(memory_format=torch.contiguous_format)


@_cached_attention.register_fake
def _(query, key, value, ticket, layer, mask, scale, softcap):
    B, Hq, n, _ = query.shape
    return query.new_empty(B, n, Hq, value.shape[-1])


@functools.cache
def show_sdpa_slots() -> None:
    """Put ``attention`` before transformers' ``sdpa``, for slots."""
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    @functools.wraps(sdpa)
    def with_slots(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        if isinstance(key, Slot):
            return attention(query, key, attention_mask, kwargs.get("scaling"), None), None
        if isinstance(key, Handle) and kwargs.get("position_bias") is None and kwargs.get("softcap") is None:
            dropout = kwargs.get("dropout", 0.0)
            out = stepped(query, key, value, attention_mask, kwargs.get("scaling"), dropout=dropout)
            if out is not None:
                return out, None
            key, value = dense(key), dense(value)
        learn_prompt(key, attention_mask)
        return sdpa(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("sdpa", with_slots)
