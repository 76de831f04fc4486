"""Attention methods inside any transformers model: ``with method.on(model): ...``.

The model's attention layers keep all that is theirs (projections, norms, rotation, cache) and call the method instead
of softmax attention. For a model that keeps its method, see ``drop_in_names``.
"""

from __future__ import annotations

import warnings
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
from multipole_lab.interface.functions import Hook, Output, attend_exactly, hooked, not_through_interface
from multipole_lab.interface.layers import attention_layers, check_layers, inner_model, layer_numbers
from multipole_lab.interface.masked import apply
from multipole_lab.interface.masks import LazyMask, after_graph, structure_of
from multipole_lab.interface.refusing import (
    Refusal,
    by_itself,
    check_apart,
    check_packed,
    stays_exact,
    unhonoured,
    where,
)
from multipole_lab.interface.structure import CustomMask, Structure
from multipole_lab.models.drop_in_traced import attend_traced
from multipole_lab.printing import count
from multipole_lab.suggesting import suggesting

Layers = int | Iterable[int] | Mapping[int, Method] | None


@suggesting
@contextmanager
def attention_on(
    model: nn.Module, method: Method, layers: Layers = None, strict: bool = False
) -> Iterator[DropIn]:
    """Run a model with ``method`` as its attention; what ``method.on(model, layers)`` does.

    Parameters
    ----------
    model : a decoder or an encoder of transformers 5, also inside ``torch.compile`` or PEFT. Of a model made of
        several parts the text model is meant.
    method : what the layers compute instead of softmax attention.
    layers : None for all layers; an integer or several for some; ``{layer: method}`` to give layers methods of their
        own, in place of ``method``. All others stay as they were.
    strict : refuse what a method cannot honour, instead of leaving that call to the model's own attention.

    Yields
    ------
    DropIn : counts the calls of each layer, ``approximated`` and ``exact``, the latter with the reason.

    Raises
    ------
    TypeError, ValueError
        On entry: what is no transformers model or has an encoder and a decoder; layers it lacks; a model that does
        not go through transformers' attention interface.
        While the model runs: packed texts that see each other; if ``strict``, all that the method cannot honour (see
        ``DropIn``).
    RuntimeError
        When another thread is running this model with a replaced attention; while the model runs, in the replicas that
        ``nn.DataParallel`` makes of it, which would be exact in silence.
    """
    from multipole_lab.models import drop_in_names  # noqa: F401  whoever drops in may also want the names

    drop_in = DropIn.of(model, method, layers, strict)
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

    What a method cannot honour is exact by the model's own attention, counted too, and said once by a warning; with
    ``strict`` it is a ValueError. These are soft-capped logits, position biases, dropout of attention weights,
    attention weights as an output (by the model's eager attention, as only that makes them), paged caches, sinks that
    depend on the query, masks that depend on the query in other ways, and a sliding window in a layer that was named.

    Refused with a ValueError in any case: packed texts with an ``attention_mask`` of two dimensions or a cache, where
    transformers lets them see each other; a layer that was named and has no attention; models that choose keys for each
    query (DeepSeek V3.2).

    Inside ``torch.compile`` the calls are part of the model's graph, which counts nothing and says nothing:
    ``approximated`` and ``exact`` hold the others. A mask that the model was given whole, and packed texts, are looked
    at when it runs.

    Attributes
    ----------
    methods : the method of each layer.
    approximated : calls of each layer that its method computed.
    exact : calls of each layer, by (layer, reason), that stayed exact although it has a method.
    """

    model: PreTrainedModel = field(repr=False)
    methods: Mapping[int, Method]
    named: bool = False
    strict: bool = False
    approximated: Counter[int] = field(default_factory=Counter)
    exact: Counter[tuple[int, str]] = field(default_factory=Counter)
    _numbers: dict[nn.Module, int] = field(default_factory=dict, repr=False)
    _said: set[str] = field(default_factory=set, repr=False)
    _seen: tuple | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        kinds = Counter(map(repr, self.methods.values()))
        methods = ", ".join(f"{kind} in {count(layers, 'layer')}" for kind, layers in kinds.items())
        calls = f"{count(self.approximated.total(), 'call')} approximated, {self.exact.total():,} exact"
        return f"DropIn({methods or 'no layer'}; {calls})"

    @classmethod
    def of(cls, model: nn.Module, method: Method, layers: Layers, strict: bool = False) -> DropIn:
        """Checked on creation; see ``attention_on``."""
        model = inner_model(model)
        if not attention_layers(model):
            raise not_through_interface(model)
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
        if without := sorted(set(methods) - with_attention):
            raise ValueError(
                f"layers contains {', '.join(map(str, without))}, which have no attention; {type(model).__name__} has "
                f"it in layers {', '.join(map(str, sorted(with_attention)))}"
            )
        return cls(model, methods, layers is not None, strict, _numbers=numbers)

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
            if getattr(module, "_is_replica", False):
                raise RuntimeError(
                    f"{type(module).__name__} is a replica made by nn.DataParallel, whose layers are not known again. "
                    "Where one process sees several GPUs, start a process for each by torchrun, or name one GPU by "
                    "CUDA_VISIBLE_DEVICES"
                )
            return former(module, query, key, value, attention_mask, **kwargs)
        if torch.compiler.is_compiling():
            call = module, query, key, value, attention_mask
            settings = method, layer, self.named, self.strict
            return attend_traced(*settings, partial(self.attend, former), former, *call, **kwargs)
        attention_mask = after_graph(attention_mask)
        call = module, query, key, value, attention_mask
        structure, place = None, where(layer, module)
        try:
            structure = self._structure(module, query, key, attention_mask, kwargs)
        except CustomMask as mask:
            refusal = None if isinstance(method, Exact) else Refusal(mask.what, str(mask))
        else:
            reason = stays_exact(method, self.named, query, key, structure)
            if reason:
                self.exact[layer, reason] += 1
                return former(*call, **kwargs)
            refusal = None
        refusal = refusal or unhonoured(method, place, module, structure, kwargs)
        if refusal:
            self._leave(layer, refusal)
            return by_itself(former, *call, **kwargs)
        if structure is None:
            self.approximated[layer] += 1
            return attend_exactly(*call, **kwargs)
        check_packed(structure, kwargs.get("cu_seq_lens_q"))
        check_apart(attention_mask, structure, kwargs.get("position_ids"), query.shape[2])
        self.approximated[layer] += 1
        out = apply(method, query, key, value, structure, kwargs.get("scaling"), kwargs.get("s_aux"))
        return out.transpose(1, 2).contiguous(), None

    def _leave(self, layer: int | None, refusal: Refusal) -> None:
        """Note what its method cannot honour; a warning the first time."""
        if self.strict:
            raise ValueError(refusal.message)
        self.exact[layer, refusal.reason] += 1
        if refusal.reason not in self._said:
            self._said.add(refusal.reason)
            warnings.warn(
                f"{refusal.message}. Such calls stay exact, by the model's own attention; strict=True refuses them",
                stacklevel=2,
            )

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
