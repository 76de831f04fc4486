"""Attention methods inside any transformers model: ``with method.on(model): ...``.

The model's attention layers keep all that is theirs (projections, norms, rotation, cache) and call the method instead
of softmax attention. For a model that keeps its method, see ``drop_in_names``.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from multipole_lab.attention import Exact, Method
from multipole_lab.interface.functions import Hook, Output, attend_exactly, hooked
from multipole_lab.interface.layers import attention_layers, check_layers, inner_model, layer_numbers
from multipole_lab.interface.masked import apply
from multipole_lab.interface.masks import LazyMask, after_graph, structure_of
from multipole_lab.interface.refusing import check_apart, check_honoured, check_packed, stays_exact, where
from multipole_lab.interface.structure import CustomMask, Structure
from multipole_lab.models.drop_in_traced import attend_traced
from multipole_lab.printing import count
from multipole_lab.suggesting import suggesting

Layers = int | Iterable[int] | Mapping[int, Method] | None


@suggesting
@contextmanager
def attention_on(model: nn.Module, method: Method, layers: Layers = None) -> Iterator[DropIn]:
    """Run a model with ``method`` as its attention; what ``method.on(model, layers)`` does.

    Parameters
    ----------
    model : a decoder or an encoder of transformers 5, also inside ``torch.compile`` or PEFT. Of a model made of
        several parts the text model is meant.
    method : what the layers compute instead of softmax attention.
    layers : None for all layers; an integer or several for some; ``{layer: method}`` to give layers methods of their
        own, in place of ``method``. All others stay as they were.

    Yields
    ------
    DropIn : counts the calls of each layer, ``approximated`` and ``exact``, the latter with the reason.

    Raises
    ------
    TypeError, ValueError
        On entry: what is no transformers model or has an encoder and a decoder; layers it lacks; a model that does
        not go through transformers' attention interface.
        While the model runs: what the method cannot honour, by name (see ``DropIn``).
    RuntimeError
        When another thread is running this model with a replaced attention.
    """
    from multipole_lab.models import drop_in_names  # noqa: F401  whoever drops in may also want the names

    drop_in = DropIn.of(model, method, layers)
    with hooked(drop_in.model, drop_in.attend, traceable=True):
        yield drop_in


@dataclass(eq=False)
class DropIn:
    """What layers of a model compute instead of softmax attention.

    Honoured: causal and full attention; key padding on any side; packed texts (``position_ids`` that begin again, with
    ``use_cache=False`` and without ``attention_mask``, as transformers wants it): each text by itself; caches; learned
    sinks (gpt-oss); training, also with gradient checkpointing (run ``backward`` inside the ``with``: the layers are
    computed again there); any other mask under ``ml.Exact()``.

    Padding must be named by an ``attention_mask``, on the right too: without one it is text, and moves what ``MuSe``
    and ``Centroid`` make of the tokens before it.

    Exact as before, and counted in ``exact``: layers that are not named; sliding windows and chunks shorter than the
    text; single queries under ``MuSe``, whose expansion point they would be (decode with ``MultipoleCache``);
    keys no more than a method's clusters; layers of a hybrid model that have no attention are left alone, uncounted.

    Refused with a ValueError: soft-capped logits, position biases, dropout of attention weights, attention weights as
    an output, paged caches, masks that depend on the query in other ways; packed texts with an ``attention_mask`` of
    two dimensions or a cache, where transformers lets them see each other; a layer that was named but attends a
    sliding window or has no attention.

    Inside ``torch.compile`` the calls are part of the model's graph, which counts nothing: ``approximated`` and
    ``exact`` hold the others. A mask that the model was given whole, and packed texts, are looked at when it runs.

    Attributes
    ----------
    methods : the method of each layer.
    approximated : calls of each layer that its method computed.
    exact : calls of each layer, by (layer, reason), that stayed exact although it has a method.
    """

    model: PreTrainedModel = field(repr=False)
    methods: Mapping[int, Method]
    named: bool = False
    approximated: Counter[int] = field(default_factory=Counter)
    exact: Counter[tuple[int, str]] = field(default_factory=Counter)
    _numbers: dict[nn.Module, int] = field(default_factory=dict, repr=False)
    _seen: tuple | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        kinds = Counter(map(repr, self.methods.values()))
        methods = ", ".join(f"{kind} in {count(layers, 'layer')}" for kind, layers in kinds.items())
        calls = f"{count(self.approximated.total(), 'call')} approximated, {self.exact.total():,} exact"
        return f"DropIn({methods or 'no layer'}; {calls})"

    @classmethod
    def of(cls, model: nn.Module, method: Method, layers: Layers) -> DropIn:
        """Checked on creation; see ``attention_on``."""
        model = inner_model(model)
        if isinstance(layers, Mapping):
            for layer, own in layers.items():
                _check_method(own, f"layers[{layer!r}]")
            check_layers(model, layers)
            methods = dict(layers)
        else:
            _check_method(method, "method")
            every = sorted(attention_layers(model))
            methods = dict.fromkeys(every if layers is None else check_layers(model, layers), method)
        numbers = layer_numbers(model)
        if missing := sorted(set(methods) - set(numbers.values())):
            raise ValueError(f"{type(model).__name__} has no modules that show which are layers {missing}")
        with_attention = attention_layers(model)
        if with_attention and (without := sorted(set(methods) - with_attention)):
            raise ValueError(
                f"layers contains {', '.join(map(str, without))}, which have no attention; {type(model).__name__} has "
                f"it in layers {', '.join(map(str, sorted(with_attention)))}"
            )
        return cls(model, methods, layers is not None, _numbers=numbers)

    def attend(
        self,
        former: Hook,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: object,
    ) -> Output:
        """What transformers calls: query [B, Hq, Nq, D], key and value [B, Hk, Nk, .]; returns [B, Nq, Hq, Dv]."""
        layer = self._numbers.get(module)
        method = self.methods.get(layer)
        if method is None:
            return former(module, query, key, value, attention_mask, **kwargs)
        if torch.compiler.is_compiling():
            call = module, query, key, value, attention_mask
            return attend_traced(
                method, layer, self.named, partial(self.attend, former), former, *call, **kwargs
            )
        attention_mask = after_graph(attention_mask)
        try:
            structure = self._structure(module, query, key, attention_mask, kwargs)
        except CustomMask:
            if not isinstance(method, Exact):
                raise
            check_honoured(method, where(layer, module), module, kwargs)
            self.approximated[layer] += 1
            return attend_exactly(module, query, key, value, attention_mask, **kwargs)
        reason = stays_exact(method, where(layer, module), self.named, query, key, structure)
        if reason:
            self.exact[layer, reason] += 1
            return former(module, query, key, value, attention_mask, **kwargs)
        check_honoured(method, where(layer, module), module, kwargs)
        check_packed(structure, kwargs.get("cu_seq_lens_q"))
        check_apart(attention_mask, structure, kwargs.get("position_ids"), query.shape[2])
        self.approximated[layer] += 1
        out = apply(method, query, key, value, structure, kwargs.get("scaling"), kwargs.get("s_aux"))
        return out.transpose(1, 2).contiguous(), None

    def _structure(
        self, module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, kwargs: Mapping
    ) -> Structure:
        """The mask's structure; one that the user wrote out is looked through once for all layers."""
        sizes = query.shape[2], key.shape[2]
        # What is made inside torch.inference_mode does not count its changes.
        plain = mask is not None and not isinstance(mask, LazyMask) and not mask.is_inference()
        if plain and self._seen and self._seen[0]() is mask and self._seen[1:3] == (mask._version, sizes):
            return self._seen[3]

        def causal() -> bool:
            given = kwargs.get("is_causal")
            return bool(getattr(module, "is_causal", True) if given is None else given)

        structure = structure_of(mask, *sizes, causal)
        if plain:
            self._seen = weakref.ref(mask), mask._version, sizes, structure
        return structure


def _check_method(method: object, what: str) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"{what} is {method!r}; an attention method such as ml.MuSe() is needed")
