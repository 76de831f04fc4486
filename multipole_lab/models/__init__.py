"""Transformers models: load small real ones, capture what their attention computes, keep it as a sample.

Names are resolved when first used: a sample opens without importing transformers, which takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab.interface.functions import attention_implementation as attention_implementation
    from multipole_lab.models.download import FetchError as FetchError
    from multipole_lab.models.drop_in import DropIn as DropIn, attention_on as attention_on
    from multipole_lab.models.drop_in_names import configure_attention as configure_attention
    from multipole_lab.models.loading import is_cached as is_cached, load_model as load_model
    from multipole_lab.models.samples.capturing import capture as capture
    from multipole_lab.models.samples.sample import (
        LayerSample as LayerSample,
        Sample as Sample,
        load_sample as load_sample,
    )

__all__ = list(_WHERE)


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
