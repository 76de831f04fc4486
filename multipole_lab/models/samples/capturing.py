"""Capture the queries, keys and values that a transformers model computes while it reads a text.

Every model of transformers 5 calls its attention through one table of functions. A function that notes what
it was given and passes it on is entered there, and the model is set to use it for one forward pass: no model
class is changed, and any model that goes through the table can be captured. What runs with a method in place of its
attention, inside ``with method.on(model)``, is captured as it then is.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from multipole_lab.environment import versions
from multipole_lab.interface.functions import Hook, Output, hooked, layer_numbers
from multipole_lab.interface.masks import structure_of
from multipole_lab.models.samples.capture_checks import check_capture
from multipole_lab.models.samples.provenance import describe_model
from multipole_lab.models.samples.sample import Sample, safetensors_path, write_record
from multipole_lab.models.samples.tensor_file import TensorFile
from multipole_lab.suggesting import suggesting

_APART = {
    "softcap": "capped logits",
    "position_bias": "position biases",
    "s_aux": "sinks",
    "sinks": "sinks",
}


@suggesting
def capture(
    model: PreTrainedModel,
    tokenizer: Callable | None,
    text: str | Mapping[str, Tensor],
    layers: Iterable[int] = (3, 15, 28),
    max_tokens: int = 8192,
    to: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float16,
    note: Mapping[str, object] | None = None,
) -> Sample:
    """Let a model read a text once and keep q, k and v, after RoPE, of the chosen layers.

    Parameters
    ----------
    model : a transformers model, on any device. It is left as it was, also after an error.
    tokenizer : its tokenizer; None for inputs that need none.
    text : what to read. Special tokens are added where the tokenizer adds them by default. Or the inputs of a model
        that reads something else, one row: ``{"pixel_values": image}``, ``{"input_features": sound}``.
    layers : which attention layers to keep, counted from 0.
    max_tokens : at most this many tokens of the text are read; also never more than the model has positions.
    to : a file to stream the tensors to as they come, with a JSON record beside it; without it they stay in
        memory (per token and layer (Hq + Hk) D + Hk Dv numbers of two bytes).
    dtype : how tensors are stored: fp16, bf16 or fp32.
    note : entries for the provenance, such as the file that the text came from.

    Returns
    -------
    Sample
        Its provenance says whether the layers were ``causal``, the ``sliding_window`` of those that have one, and what
        the model does to its logits ``apart`` from q.k: capped logits, position biases and sinks are not in a sample.

    Raises
    ------
    TypeError
        When ``model`` is no transformers model, or ``text`` no string.
    ValueError
        For an empty text, a layer the model lacks, ``max_tokens`` below 1, a model whose attention does not
        go through the table, and tensors that do not fit ``dtype``.
    """
    layers = check_capture(model, text, layers, max_tokens, dtype)
    is_text = isinstance(text, str)
    ids = _token_ids(model, tokenizer, text, max_tokens) if is_text else None
    inputs = {"input_ids": ids[None]} if is_text else dict(text)

    kept: dict[str, Tensor] = {}
    scales: dict[int, float] = {}
    seen: dict[int, dict] = {}
    numbers = layer_numbers(model)

    def keep(
        former: Hook,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: object,
        **kwargs: object,
    ) -> Output:
        layer = numbers.get(module)
        if layer in layers and layer not in scales:
            scales[layer] = float(
                query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
            )
            seen[layer] = _what_is_seen(module, query, key, mask, kwargs)
            for part, tensor in zip("qkv", (query, key, value), strict=True):
                stored = _narrow(tensor.detach(), dtype, f"{part} of layer {layer}")
                if file is None:
                    kept[f"layer.{layer}.{part}"] = stored.cpu().contiguous()
                else:
                    file.add(f"layer.{layer}.{part}", stored)
        return former(module, query, key, value, mask, **kwargs)

    file = None
    if to is None:
        _read(model, inputs, keep)
    else:
        to = safetensors_path(to)
        with TensorFile(to, tensors=3 * len(layers) + 1) as file:
            if is_text:
                file.add("token_ids", ids)
            _read(model, inputs, keep)
            _check_complete(model, layers, scales)
            if not is_text:
                file.add("token_ids", torch.arange(seen[layers[0]]["keys"]))
    _check_complete(model, layers, scales)
    ids = (
        ids if is_text else torch.arange(seen[layers[0]]["keys"])
    )  # patches and frames have no names but numbers

    rope = dict(getattr(model.config.get_text_config(), "rope_parameters", None) or {})
    provenance = {
        "model": describe_model(model),
        **(
            {"text_sha256": hashlib.sha256(text.encode()).hexdigest(), "max_tokens": max_tokens}
            if is_text
            else {"inputs": {name: list(x.shape) for name, x in inputs.items()}}
        ),
        "dtype": str(model.dtype).removeprefix("torch."),
        "stored_dtype": str(dtype).removeprefix("torch."),
        "after_rope": bool(rope),
        "causal": all(layer["causal"] for layer in seen.values()),
        "sliding_window": {str(i): seen[i]["window"] for i in layers if seen[i]["window"] is not None},
        "apart": sorted({name for layer in seen.values() for name in layer["apart"]}),
        **versions(),
        **(note or {}),
    }
    sample = Sample(
        layers=layers,
        token_ids=ids,
        tokens=_token_texts(tokenizer, ids.tolist()) if is_text else [str(i) for i in ids.tolist()],
        scale=scales[layers[0]],
        rope=rope,
        provenance=provenance,
        tensors=kept,
        path=to,
    )
    if to is not None:
        write_record(to, sample)
    return sample


def _read(model: PreTrainedModel, inputs: Mapping[str, Tensor], keep: Hook) -> None:
    """One forward pass without logits (at 8,192 tokens they would be 1.6 GB) and without a cache."""
    inner = model.base_model
    arguments = {name: x.to(model.device) for name, x in inputs.items()}
    if "use_cache" in inspect.signature(inner.forward).parameters:
        arguments["use_cache"] = False
    training = model.training
    try:
        model.eval()
        # A sample is for learning with, too; what is made in torch.inference_mode never has gradients.
        with hooked(model, keep), torch.inference_mode(False), torch.no_grad():
            inner(**arguments)
    finally:
        model.train(training)


def _what_is_seen(module: nn.Module, query: Tensor, key: Tensor, mask: object, kwargs: Mapping) -> dict:
    """Whether a layer is causal, its sliding window or chunk in tokens (None without one), what it does ``apart``."""
    given = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if given is None else given)
    structure = structure_of(mask, query.shape[2], key.shape[2], lambda: causal)
    return {
        "causal": structure.causal,
        "window": structure.local or kwargs.get("sliding_window"),
        "keys": key.shape[2],
        "apart": [words for name, words in _APART.items() if kwargs.get(name) is not None],
    }


def _check_complete(model: PreTrainedModel, layers: list[int], scales: Mapping[int, float]) -> None:
    missing = [layer for layer in layers if layer not in scales]
    if missing:
        raise ValueError(f"{type(model).__name__} called no attention function in layers {missing}")
    if len(set(scales.values())) > 1:
        raise ValueError(f"layers scale their scores differently ({scales}); capture them one by one")


def _token_ids(model: PreTrainedModel, tokenizer: Callable, text: str, max_tokens: int) -> Tensor:
    """[N] int64, cut at ``max_tokens`` and at the model's positions."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_tokens
    limit = min(max_tokens, positions)
    ids = torch.as_tensor(tokenizer(text, truncation=True, max_length=limit)["input_ids"], dtype=torch.int64)
    if ids.ndim == 2 and len(ids) == 1:  # of a tokenizer that answers with a batch
        ids = ids[0]
    if ids.ndim != 1:
        raise ValueError(f"the tokenizer made token ids of shape {tuple(ids.shape)}; one row is needed")
    ids = ids[:limit]
    if ids.numel() == 0:
        raise ValueError("text is empty; the tokenizer made no token of it")
    if len(ids) == limit < max_tokens:
        warnings.warn(f"the model has {positions} positions: the text was cut there", stacklevel=3)
    return ids


def _token_texts(tokenizer: Callable, ids: list[int]) -> list[str]:
    """The text of each token by itself, spaces kept."""
    return [tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]


def _narrow(tensor: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """Cast for storage; what was finite must stay so."""
    stored = tensor.to(dtype)
    if not torch.equal(stored.isfinite(), tensor.isfinite()):
        largest = tensor[tensor.isfinite()].abs().max().item()
        raise ValueError(f"{what} reaches {largest:.3g}, too large for {dtype}; pass dtype=torch.float32")
    return stored
