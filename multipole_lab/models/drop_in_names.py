"""Attention methods by name: ``model.set_attn_implementation("muse")``, configured by ``model.config.muse``.

The names are entered when this module is imported, which ``ml.load_model``, ``ml.capture`` and ``method.on`` do. The
configuration is a dictionary of the method's parameters, ``layers`` for some layers only, and ``strict``:

    model.config.muse = {"clusters": 64, "near": 4, "layers": [3, 4, 5]}
    model.set_attn_implementation("muse")

It is saved by ``save_pretrained`` as part of ``config.json`` and there again after
``from_pretrained(folder, attn_implementation="muse")``. Without it the method has its defaults. In a model made of
several parts the entry belongs to the text model's configuration, ``model.config.get_text_config()``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from multipole_lab.attention import Centroid, Exact, Method, MuSe, TopK, Window
from multipole_lab.interface.functions import (
    Output,
    attend_exactly,
    check_layers,
    inner_model,
    register,
    set_implementation,
)
from multipole_lab.models.drop_in import DropIn
from multipole_lab.models.drop_in_traced import attend_traced
from multipole_lab.suggesting import suggesting

NAMES: dict[str, type[Method]] = {
    "muse": MuSe,
    "multipole_centroid": Centroid,
    "multipole_exact": Exact,
    "multipole_topk": TopK,
    "multipole_window": Window,
}


@suggesting
def configure_attention(
    model: nn.Module, method: Method, layers: int | Iterable[int] | None = None, strict: bool = False
) -> str:
    """Let a model use a method from now on: write its configuration and set its implementation.

    Parameters
    ----------
    model : a decoder or an encoder of transformers 5.
    method : one of the library's methods.
    layers : None for all, or some; the others stay exact.
    strict : refuse what the method cannot honour, which otherwise is exact by sdpa or eager and said once.

    Returns
    -------
    The name that was set, such as "muse"; ``model.set_attn_implementation("sdpa")`` goes back.

    Raises
    ------
    TypeError, ValueError : no transformers model, a method without a name, layers that the model lacks, a model that
        does not go through transformers' attention interface.
    """
    name = next((name for name, kind in NAMES.items() if type(method) is kind), None)
    if name is None:
        raise TypeError(
            f"method is {method!r}; one of {', '.join(kind.__name__ for kind in NAMES.values())} is needed: only "
            "these can be written into a configuration. Any method works with method.on(model)"
        )
    model = inner_model(model)
    settings = dataclasses.asdict(method)
    if layers is not None:
        settings["layers"] = check_layers(model, layers)
    if strict:
        settings["strict"] = True
    setattr(model.config.get_text_config(), name, settings)
    set_implementation(model, name)
    return name


def configured_method(config: object, name: str) -> tuple[Method, frozenset[int] | None, bool]:
    """The method that a configuration describes under a name; its layers, None for all; whether it is strict.

    Raises
    ------
    TypeError, ValueError : an entry that is no dictionary, or with parameters the method does not have or take.
    """
    settings = getattr(config, name, None)
    settings = {} if settings is None else settings
    where = f"model.config.{name}"
    if not isinstance(settings, dict):
        raise TypeError(f"{where} is {settings!r}; a dictionary such as {{'clusters': 64}} is needed")
    if torch.compiler.is_compiling():  # a graph knows no JSON, and is made again where a setting has changed
        return _built(name, dict(settings))
    return _parsed(name, json.dumps(settings, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _parsed(name: str, text: str) -> tuple[Method, frozenset[int] | None, bool]:
    return _built(name, json.loads(text))


def _built(name: str, settings: dict) -> tuple[Method, frozenset[int] | None, bool]:
    kind = NAMES[name]
    layers, strict = settings.pop("layers", None), settings.pop("strict", False)
    known = list(kind.__dataclass_fields__)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"model.config.{name} has {', '.join(unknown)}, which {kind.__name__} does not take; allowed are "
            f"{', '.join([*known, 'layers', 'strict'])}"
        )
    try:
        method = kind(**settings)
    except (ValueError, TypeError) as error:
        raise type(error)(f"model.config.{name}: {error}") from None
    if not isinstance(strict, bool):
        raise TypeError(f"model.config.{name} has strict {strict!r}; True or False is needed")
    if layers is None:
        return method, None, strict
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise TypeError(f"model.config.{name} has layers {layers!r}; a list of integers is needed")
    return method, frozenset(layers), strict


def _named_attention(
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: object,
) -> Output:
    """One layer by the method that its configuration describes; exact by sdpa, or eager where sdpa cannot."""
    method, layers, strict = configured_method(module.config, name)
    layer = getattr(module, "layer_idx", None)
    if layers is not None and layer is None:
        raise ValueError(
            f"{type(module).__name__} does not know its layer, so config.{name} cannot choose layers; "
            "use method.on(model, layers=...)"
        )
    chosen = layers is None or layer in layers
    if torch.compiler.is_compiling():
        call = module, query, key, value, attention_mask
        if not chosen:
            return attend_exactly(*call, **kwargs)
        eagerly = functools.partial(_named_attention, name)
        settings = method, layer, layers is not None, strict
        return attend_traced(*settings, eagerly, attend_exactly, *call, **kwargs)
    methods = {layer: method} if chosen else {}
    drop_in = DropIn(None, methods, layers is not None, strict, _numbers={module: layer}, _said=_said(name))
    return drop_in.attend(attend_exactly, module, query, key, value, attention_mask, **kwargs)


@functools.cache
def _said(name: str) -> set[str]:
    """What was already said of calls that stay exact under a name."""
    return set()


for _name in NAMES:
    register(_name, functools.partial(_named_attention, _name), traceable=True)
