"""A clustered cache in a safetensors file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from multipole_lab import files
from multipole_lab.decoding.layer import ClusteredLayer
from multipole_lab.decoding.step.balance import Portion
from multipole_lab.decoding.store.hierarchy import Hierarchy
from multipole_lab.decoding.store.levels import Block
from multipole_lab.decoding.store.storage import kept

if TYPE_CHECKING:
    from multipole_lab.decoding.cache import MultipoleCache

FORMAT = "multipole_lab cache 1"


def save(cache: MultipoleCache, path: str | Path) -> Path:
    """Write a cache: tensors as they are stored, settings and block boundaries as JSON in the file's header.

    Raises
    ------
    ValueError : the cache has layers with a sliding window.
    """
    tensors, layers = {}, []
    for i, layer in enumerate(cache.layers):
        if not isinstance(layer, ClusteredLayer):
            raise ValueError(f"layer {i} has a sliding window; only clustered layers can be saved")
        h = layer.hierarchy
        for name, buffer in h.buffers().items():
            tensors[f"layer.{i}.{name}"] = buffer.view().contiguous()
        if h.valid is not None:
            tensors[f"layer.{i}.valid"] = h.valid
        if h.metric.moment is not None:
            tensors[f"layer.{i}.moment"] = h.metric.moment
        for name in ("need", "share", "coming"):
            if getattr(layer.portion, name) is not None:
                tensors[f"layer.{i}.{name}"] = getattr(layer.portion, name)
        layers.append({"blocks": h.blocks, "sinks": h.sinks, "settled": int(h.settled), "queries": h.metric.seen,
                       "steps": layer.portion.steps, "errors": layer.portion.seen})  # fmt: skip
    record = {"format": FORMAT, "settings": dataclasses.asdict(cache.settings), "layers": layers}
    path = Path(path)
    with files.replacing(path) as partial:
        save_file(tensors, partial, metadata={"multipole_lab": json.dumps(record)})
    return path


@kept
def load(cls: type[MultipoleCache], path: str | Path, config: object | None, device: str) -> MultipoleCache:
    """Read what ``save`` wrote.

    Raises
    ------
    ValueError : a file that is something else.
    """
    with safe_open(path, framework="pt", device=str(device)) as file:
        record = json.loads((file.metadata() or {}).get("multipole_lab", "{}"))
        if record.get("format") != FORMAT:
            raise ValueError(f"{path} is not a saved cache ({FORMAT!r} is missing from its header)")
        cache = cls(config=config, **record["settings"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    for i, about in enumerate(record["layers"]):
        prefix = f"layer.{i}."
        own = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
        if cache.layer_class_to_replicate is None:
            layer = cache.layers[i]
        else:
            layer = cache.layer_class_to_replicate()
            cache.layers.append(layer)
        if own:
            _fill(layer.hierarchy, own, about)
            share = own.get("share")
            layer.portion = Portion(
                about.get("steps", 0), own.get("need"), about.get("errors", 0), share,
                1.0 if share is None else share.max().item(), own.get("coming"),
            )  # fmt: skip
    return cache


def _fill(h: Hierarchy, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Put one layer's tensors back."""
    h.append(tensors["keys"], tensors["values"])
    if about["blocks"]:
        h.make_levels(sketched="codes" in tensors)
        for name, buffer in h.buffers().items():
            if name not in ("keys", "values"):
                buffer.append(tensors[name])
    h.valid = tensors.get("valid")
    h.metric.moment, h.metric.seen = tensors.get("moment"), about.get("queries", 0)
    h.blocks = [Block(start, end, tuple(clusters)) for start, end, clusters in about["blocks"]]
    h.sinks, h.settled = about["sinks"], about["settled"]
