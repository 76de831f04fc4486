"""Choose a model's attention function for a while, through transformers' public tables.

Every model of transformers 5 looks its attention function up by a name in ``AttentionInterface`` and its mask in
``AttentionMaskInterface``. Entering a function there and telling the model its name changes no model class.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from multipole_lab.interface.layers import (
    attention_layers as attention_layers,
    check_layers as check_layers,
    inner_model as inner_model,
    layer_numbers as layer_numbers,
    parts_of,
)
from multipole_lab.interface.masks import after_graph, lazy_mask, mask_for
from multipole_lab.suggesting import suggesting

Output = tuple[Tensor, Tensor | None]
# Called as function(former, module, query, key, value, attention_mask, **kwargs), like any attention function but for
# ``former``, which takes the same arguments and computes what the model computed before.
Hook = Callable[..., Output]


@suggesting
@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run a model with another attention function; on exit, also after an error, each part has its own again.

    Parameters
    ----------
    model : a transformers model, possibly made of others (a text and a vision model, say).
    name : a function registered with ``transformers.AttentionInterface``, and its mask with
        ``AttentionMaskInterface``.

    Raises
    ------
    ValueError
        For a model whose attention does not go through that interface.
    """
    before = [(part, part.config._attn_implementation) for part in parts_of(model)]
    try:
        set_implementation(model, name)
        yield
    finally:
        for part, implementation in before:  # from the outside in: setting a part sets what is inside it
            part.set_attn_implementation(implementation)


@dataclass
class _Entry:
    """A function that a model runs with now: its thread, the model's parts, what each configuration named before."""

    thread: int
    parts: list[PreTrainedModel]
    before: dict[int, str]  # by the identity of the configuration, which parts may share

    def former(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, **kwargs: object
    ) -> Output:
        """What the model computed before."""
        name = self.before.get(id(getattr(module, "config", None))) or next(iter(self.before.values()))
        return attend_as(name, module, query, key, value, mask, **kwargs)


_lock = threading.RLock()
_live: dict[str, _Entry] = {}
_spare: list[str] = []
_numbers = itertools.count()


@contextmanager
def hooked(model: PreTrainedModel, function: Hook, traceable: bool = False) -> Iterator[None]:
    """Let every attention layer of a model call ``function``; undone on exit, also after an error.

    ``traceable`` as for ``register``.

    The function belongs to the model and not to the thread that enters: generation in a worker thread and a
    backward pass in autograd's threads go through it too. Nested uses stack: the inner one's ``former`` is the outer.

    Raises
    ------
    RuntimeError
        When the model runs under a hook of another thread: a model has one attention at a time.
    ValueError
        For a model whose attention does not go through the interface.
    """
    with _lock:
        parts = parts_of(model)
        for part in parts:
            running = _live.get(part.config._attn_implementation)
            if running is not None and running.thread != threading.get_ident():
                raise RuntimeError(
                    f"{type(part).__name__} runs with a replaced attention in another thread; a model has one "
                    "attention at a time: give each thread its own model, or put one `with` around them all"
                )
        # Names are used again, so that the tables do not grow; there is no public way to take one out.
        name = _spare.pop() if _spare else f"multipole_lab_{next(_numbers)}"
        before = {id(part.config): part.config._attn_implementation for part in parts}
        entry = _live[name] = _Entry(threading.get_ident(), parts, before)
        register(name, lambda *args, **kwargs: function(entry.former, *args, **kwargs), traceable)
    try:
        set_implementation(model, name)
        yield
    finally:
        with _lock:
            _restore(name)
            register(name, _ended)
            _spare.append(name)


def register(name: str, function: Callable[..., Output], traceable: bool = False) -> None:
    """Enter an attention function under a name; its mask is made only when somebody looks at it.

    The function runs outside ``torch.compile``'s graphs, unless it is ``traceable``: it is then traced as part of one,
    gets a ``MaskRequest`` where the model asked for a mask, and calls itself through ``outside`` where it must look.
    """
    AttentionInterface.register(name, function if traceable else partial(outside, function))
    AttentionMaskInterface.register(name, lazy_mask)


@torch.compiler.disable
def outside(
    function: Callable[..., Output],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    **kwargs: object,
) -> Output:
    """What an attention function gives, computed outside any graph of ``torch.compile``."""
    return function(module, query, key, value, after_graph(attention_mask), **kwargs)


def _restore(name: str) -> None:
    """Give each part what it had before ``name``, also where a hook entered later has not ended yet."""
    ended = _live.pop(name)
    for part in {id(part.config): part for part in ended.parts}.values():
        identity = id(part.config)
        before = ended.before[identity]
        later = [entry for entry in _live.values() if entry.before.get(identity) == name]
        for entry in later:
            entry.before[identity] = before
        if not later:
            part.set_attn_implementation(before)


def check_replaceable(module: nn.Module, kwargs: Mapping[str, object]) -> None:
    """Refuse a model that chooses keys for each query.

    Raises
    ------
    ValueError : DeepSeek V3.2 and its like put their choice into the mask under transformers' own implementations only.
    """
    if kwargs.get("indices") is not None or kwargs.get("block_indices") is not None:
        raise ValueError(
            f"{type(module).__name__} chooses keys for each query, which it tells transformers' own implementations "
            "only: its attention cannot be replaced or recorded"
        )


def attend_as(
    name: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, **kwargs: object
) -> Output:
    """Attention by the implementation of that name, with the mask it wants."""
    check_replaceable(module, kwargs)
    function = ALL_ATTENTION_FUNCTIONS.get(name)
    if function is None:  # each model's file has its own "eager", which is in no table
        function = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if name != "eager" or function is None:
            raise ValueError(f"{type(module).__name__} has no attention implementation {name!r}")
    return function(module, query, key, value, mask_for(mask, name, query.dtype), **kwargs)


def attend_exactly(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: object, **kwargs: object
) -> Output:
    """Softmax attention under any mask: by sdpa, or by eager where sdpa cannot (sinks, capped logits, a bias)."""
    special = any(kwargs.get(name) is not None for name in ("s_aux", "sinks", "softcap", "position_bias"))
    return attend_as("eager" if special else "sdpa", module, query, key, value, mask, **kwargs)


def _ended(module: nn.Module, *_: object, **__: object) -> Output:
    raise RuntimeError(
        f"{type(module).__name__} was copied inside a `with ... .on(model)` that has ended; call "
        "set_attn_implementation('sdpa') on the copy"
    )


def not_through_interface(model: PreTrainedModel) -> ValueError:
    """The error for a model whose attention cannot be chosen."""
    return ValueError(
        f"{type(model).__name__} does not go through transformers' attention interface: it has no attention layers, "
        "or keeps their function to itself"
    )


def set_implementation(model: PreTrainedModel, name: str) -> None:
    """Tell a model to use the attention function of that name.

    Raises
    ------
    ValueError : a model without attention, or whose attention does not go through transformers' interface.
    """
    if not attention_layers(model):
        raise not_through_interface(model)
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise ValueError(f"{type(model).__name__} does not go through transformers' attention interface")
