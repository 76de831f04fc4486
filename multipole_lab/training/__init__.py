"""Pretraining a small GPT with exact attention and with MuSe, and comparing the two.

Names are resolved when first used, so that the command line answers before transformers is imported.
"""

from __future__ import annotations

from multipole_lab.suggesting import lazy_names

# No module may bear the name of something it exports: once imported, it would stand in that thing's place.
_WHERE = {
    "PRESETS": "presets",
    "Corpus": "texts.corpus",
    "Preset": "presets",
    "build_model": "gpt",
    "compare_training": "comparison",
    "parameter_counts": "gpt",
    "prepare_corpus": "texts.preparation",
    "train_run": "run",
}

__all__ = list(_WHERE)


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
