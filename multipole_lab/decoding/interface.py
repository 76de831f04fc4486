"""The attention function that ``MultipoleCache.on`` gives a model, through transformers' public interface."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from multipole_lab.decoding.in_graph import Slot, attention
from multipole_lab.decoding.store.padding import learn_prompt
from multipole_lab.interface.handle import Handle, dense, stepped

NAME = "multipole_lab_cache"
# Logits computed at a time, so that memory stays linear in the text.
TILE = 1 << 23


def cached_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The decode step where keys are clustered, torch's attention (soft-capped if need be) elsewhere.

    Models with learned sinks (gpt-oss) or position biases stay exact throughout.

    query [B, Hq, n, D], key [B, Hk, N, D], value [B, Hk, N, Dv]; the output is [B, n, Hq, Dv].

    Raises
    ------
    ValueError : attention weights are wanted; a row holds packed texts, which a cache does not keep apart.
    """
    # Models stand above decoding in the library, so this import waits until it is asked for.
    from multipole_lab.interface.masks import Structure
    from multipole_lab.interface.refusing import check_no_weights, check_positions

    check_no_weights(module, kwargs, "MultipoleCache.on")
    if isinstance(key, Slot):
        return attention(query, key, attention_mask, kwargs.get("scaling"), kwargs.get("softcap")), None
    learn_prompt(key, attention_mask)
    if query.shape[2] > 1:
        keep = None if attention_mask is None else (attention_mask[:, 0] == _shown(attention_mask)).any(1)
        check_positions(Structure(True, key.shape[2], keep), kwargs.get("position_ids"), query.shape[2])
    softcap, scaling = kwargs.get("softcap"), kwargs.get("scaling")
    if any(kwargs.get(name) is not None for name in ("s_aux", "sinks", "position_bias")):
        return _apart(module, query, key, value, attention_mask, **kwargs)
    if isinstance(key, Handle) and not isinstance(value, Handle):
        key.layer.dense_steps += query.shape[2] == 1
    out = stepped(query, key, value, attention_mask, scaling, softcap, kwargs.get("dropout"))
    if out is not None:
        return out, None
    key, value = dense(key), dense(value)
    if softcap is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)
    return soft_capped(query, key, value, attention_mask, scaling, softcap).transpose(1, 2).contiguous(), None


def _apart(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Attention over all keys, by the model's own: a step over clusters knows no learned sinks or position biases."""
    from multipole_lab.interface.functions import attend_exactly

    n, N = query.shape[2], key.shape[2]
    if isinstance(key, Handle):
        key.layer.dense_steps += n == 1
    if mask is None and n > 1 and getattr(module, "is_causal", True):
        mask = torch.ones(n, N, dtype=torch.bool, device=query.device).tril(N - n)[None, None]
    return attend_exactly(module, query, dense(key), dense(value), mask, **kwargs)[0], None


def _shown(mask: Tensor) -> bool | float:
    """What a mask, boolean or added to the logits, says of a key that is seen."""
    return True if mask.dtype == torch.bool else 0.0


def soft_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, softcap: float
) -> Tensor:
    """Causal attention with logits ``softcap * tanh(s q.k / softcap)``, the queries last; tile by tile."""
    B, Hq, n, D = query.shape
    Hk, N = key.shape[1:3]
    scale = D**-0.5 if scale is None else scale
    q = query.view(B, Hk, Hq // Hk, n, D)
    outs, step = [], max(1, TILE // (B * Hq * N))
    for first in range(0, n, step):
        last = min(first + step, n)
        logits = torch.einsum("bhgnd,bhmd->bhgnm", q[:, :, :, first:last].float(), key.float()) * scale
        logits = softcap * torch.tanh(logits / softcap)
        if mask is None:
            place = torch.arange(first, last, device=key.device).unsqueeze(-1) + N - n
            logits = logits.masked_fill(torch.arange(N, device=key.device) > place, -torch.inf)
        elif mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask[:, :, None, first:last], torch.finfo(logits.dtype).min)
        else:
            logits = logits + mask[:, :, None, first:last]
        outs.append(torch.einsum("bhgnm,bhmd->bhgnd", logits.softmax(-1).to(value.dtype), value))
    return torch.cat(outs, 3).flatten(1, 2)


AttentionInterface.register(NAME, cached_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # without it the model would build no mask at all
