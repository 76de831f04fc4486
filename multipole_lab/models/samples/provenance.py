"""Where a capture comes from, in plain dictionaries."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel

from multipole_lab.models.registry import SOURCE_FILE


def describe_model(model: PreTrainedModel) -> dict:
    """Class, name, and the hub revision or the pinned source of a model's weights."""
    config = model.config
    path = Path(config._name_or_path or "")
    description = {"class": type(model).__name__, "name": config._name_or_path or None}
    if path.is_dir():
        description["name"] = path.resolve().name  # where it lies on this disk is nobody's business
        if (path / SOURCE_FILE).is_file():
            description |= json.loads((path / SOURCE_FILE).read_text(encoding="utf-8"))
    elif getattr(config, "_commit_hash", None):
        description |= {"hub_id": config._name_or_path, "revision": config._commit_hash, "source": "hub"}
    return description
