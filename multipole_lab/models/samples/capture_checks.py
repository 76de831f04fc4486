"""What a capture refuses, in words that name the argument, what came and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from multipole_lab.interface.functions import check_layers, inner_model


def check_capture(
    model: object, text: object, layers: Iterable[int], max_tokens: int, dtype: torch.dtype
) -> list[int]:
    """Refuse what cannot be captured; returns the layers in ascending order."""
    inner_model(model)
    if isinstance(text, Mapping):
        for name, x in text.items():
            if not isinstance(x, Tensor) or x.ndim == 0 or len(x) != 1:
                raise ValueError(
                    f"text[{name!r}] is {_told(x)}; one row of a model's input is needed, [1, ...]"
                )
    elif not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}; a string is needed, or a dictionary of inputs")
    if not text or (isinstance(text, str) and not text.strip()):
        raise ValueError("text is empty; there is nothing to read")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise TypeError(f"max_tokens is {max_tokens!r}; an integer is needed")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; at least 1 is needed")
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"dtype is {dtype}; float16, bfloat16 or float32 is needed")
    return check_layers(model, layers)


def _told(x: object) -> str:
    return f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
