"""The name by which a model takes its cache: "past_key_values", and "cache" from transformers 5.2x on."""

from __future__ import annotations

import inspect


def with_cache(model: object, cache: object) -> dict[str, object]:
    """The argument that gives a cache to a model or to its ``generate``: ``model(ids, **with_cache(model, cache))``.

    The model's own signature decides, not a version: code that comes with a checkpoint keeps the old name for longer.
    Either name works in both, and the old one warns where the new one is known.
    """
    taken = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in taken else "past_key_values": cache}
