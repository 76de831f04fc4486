"""Pretraining a small GPT with exact attention and with MuSe, and comparing the two.

Names are resolved when first used, so that the command line answers before transformers is imported.
"""

from __future__ import annotations

import importlib

# No module may bear the name of something it exports: once imported, it would stand in that thing's place.
_WHERE = {
    "PRESETS": "presets",
    "Corpus": "corpus",
    "Preset": "presets",
    "build_model": "gpt",
    "compare_training": "comparing",
    "parameter_counts": "gpt",
    "prepare_corpus": "preparing",
    "train_run": "running",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
