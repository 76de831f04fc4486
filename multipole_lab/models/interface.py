"""Choose a model's attention function for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run a model with another attention function; on exit, also after an error, each part has its own again.

    Parameters
    ----------
    model : a transformers model, possibly made of others (a text and a vision model, say).
    name : a function registered with ``transformers.AttentionInterface``, and its mask with
        ``AttentionMaskInterface``.

    Raises
    ------
    ValueError
        For a model whose attention does not go through that interface.
    """
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    before = [(part, part.config._attn_implementation) for part in parts]
    try:
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:
            raise ValueError(f"{type(model).__name__} does not go through transformers' attention interface")
        yield
    finally:
        for part, implementation in before:  # from the outside in: setting a part sets what is inside it
            part.set_attn_implementation(implementation)
