"""Pretraining a small GPT with exact attention and with MuSe, and comparing the two.

Names are resolved when first used, so that the command line answers before transformers is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run this
    from multipole_lab.training.comparison import compare_training as compare_training
    from multipole_lab.training.gpt import build_model as build_model, parameter_counts as parameter_counts
    from multipole_lab.training.presets import PRESETS as PRESETS, Preset as Preset
    from multipole_lab.training.run import train_run as train_run
    from multipole_lab.training.texts.corpus import Corpus as Corpus
    from multipole_lab.training.texts.preparation import prepare_corpus as prepare_corpus

__all__ = list(_WHERE)


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
