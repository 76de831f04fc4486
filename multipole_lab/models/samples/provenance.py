"""Where a capture comes from, in dictionaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from multipole_lab.models.registry import SOURCE_FILE
from multipole_lab.printing import count

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


class Provenance(dict):
    """Where a sample comes from: a dictionary that prints what matters in one line; ``dict(...)`` shows all of it."""

    def __repr__(self) -> str:
        model = self.get("model") or {}
        origin = model.get("wheel") or model.get("hub_id") or model.get("source")
        words = [model.get("name") or model.get("class"), origin and f"from {origin}"]
        words += [f"reading {self['text_file']}" if self.get("text_file") else None, self.get("date")]
        shown = ", ".join(str(one) for one in words if one) or "nothing known"
        return f"Provenance({shown}: {count(len(self), 'entry', 'entries')})"
