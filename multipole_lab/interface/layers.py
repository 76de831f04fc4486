"""The layers of a transformers model: which it is made of, which call an attention function, what their numbers are."""

from __future__ import annotations

import functools
import inspect

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def parts_of(model: nn.Module) -> list[PreTrainedModel]:
    """The transformers models that a module is or is made of, itself first."""
    return [part for part in model.modules() if isinstance(part, PreTrainedModel)]


@functools.lru_cache(maxsize=1024)
def calls_attention(kind: type[nn.Module]) -> bool:
    """Whether a module of this class looks its attention function up: its code names transformers' table."""
    own = [
        one for one in kind.__mro__ if one.__module__ != PreTrainedModel.__module__
    ]  # which keeps that table
    functions = (inspect.unwrap(f) for one in own for f in vars(one).values() if callable(f))
    return any("ALL_ATTENTION_FUNCTIONS" in f.__code__.co_names for f in functions if hasattr(f, "__code__"))


def attention_layers(model: PreTrainedModel) -> set[int]:
    """The layers of the text model that call an attention function; a hybrid model has others too."""
    return {number for module, number in layer_numbers(model).items() if calls_attention(type(module))}


def inner_model(model: object) -> PreTrainedModel:
    """The transformers model itself, also from inside ``torch.compile``, PEFT or data-parallel wrappers.

    Raises
    ------
    TypeError : there is none.
    ValueError : a model with an encoder and a decoder.
    """
    found = parts_of(model) if isinstance(model, nn.Module) else []
    if not found:
        raise TypeError(f"model is a {type(model).__name__}; a transformers PreTrainedModel is needed")
    model = found[0]
    sides = [getattr(model.base_model, side, None) for side in ("encoder", "decoder")]
    if model.config.is_encoder_decoder and None not in sides:
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder; give one of the two, such as model.get_encoder()"
        )
    return model


def layer_numbers(model: PreTrainedModel) -> dict[nn.Module, int]:
    """The layer that each module of the text model belongs to: its ``layer_idx``, or the first number in its name."""
    text = model.config.get_text_config()
    numbers: dict[nn.Module, int] = {}
    parts = parts_of(model)
    for part in parts:
        if part.config is text or (part is model and len(parts) == 1):
            inside = (one for one in parts_of(part)[1:] if one.config is not part.config)
            others = {module for one in inside for module in one.modules()}  # a picture's model, as in GIT
            for name, module in part.named_modules():
                if module in others:
                    continue
                number = getattr(module, "layer_idx", None)
                if not isinstance(number, int):
                    number = next((int(word) for word in name.split(".") if word.isdigit()), None)
                if number is not None:
                    numbers[module] = number
    return numbers


def check_layers(model: PreTrainedModel, layers: object) -> list[int]:
    """Layers in ascending order.

    Raises
    ------
    TypeError, ValueError : no layer at all, what is no integer, or a layer that the model lacks.
    """
    depth = model.config.get_text_config().num_hidden_layers
    layers = [layers] if isinstance(layers, int) else list(layers)
    if not layers:
        raise ValueError("layers is empty; name at least one")
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise TypeError(f"layers contains {layer!r}; integers are needed")
        if not 0 <= layer < depth:
            raise ValueError(f"layers contains {layer}; {type(model).__name__} has layers 0 to {depth - 1}")
    return sorted(set(layers))


def head_size(config: PreTrainedConfig) -> int:
    """The size of the heads of a model's text configuration."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
