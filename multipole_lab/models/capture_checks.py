"""What a capture refuses, in words that name the argument, what came and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel


def check_capture(
    model: object, text: object, layers: Iterable[int], max_tokens: int, dtype: torch.dtype
) -> list[int]:
    """Refuse what cannot be captured; returns the layers in ascending order."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model is a {type(model).__name__}; a transformers PreTrainedModel is needed")
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} has an encoder and a decoder; capture one of the two")
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}; a string is needed")
    if not text.strip():
        raise ValueError("text is empty; there is nothing to read")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise TypeError(f"max_tokens is {max_tokens!r}; an integer is needed")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; at least 1 is needed")
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"dtype is {dtype}; float16, bfloat16 or float32 is needed")
    depth = model.config.get_text_config().num_hidden_layers
    layers = [layers] if isinstance(layers, int) else list(layers)
    if not layers:
        raise ValueError("layers is empty; name at least one")
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise TypeError(f"layers contains {layer!r}; integers are needed")
        if not 0 <= layer < depth:
            raise ValueError(f"layers contains {layer}; {type(model).__name__} has layers 0 to {depth - 1}")
    return sorted(set(layers))
