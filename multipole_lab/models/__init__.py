"""Transformers models: load small real ones, capture what their attention computes, keep it as a sample.

Names are resolved when first used: a sample opens without importing transformers, which takes seconds.
"""

from __future__ import annotations

from multipole_lab.suggesting import lazy_names

# No module may bear the name of something it exports: once imported, it would stand in that thing's place.
_WHERE = {
    "DropIn": "drop_in",
    "FetchError": "download",
    "LayerSample": "samples.sample",
    "Sample": "samples.sample",
    "attention_implementation": ".interface.functions",
    "attention_on": "drop_in",
    "capture": "samples.capturing",
    "configure_attention": "drop_in_names",
    "is_cached": "loading",
    "load_model": "loading",
    "load_sample": "samples.sample",
}

__all__ = list(_WHERE)


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
