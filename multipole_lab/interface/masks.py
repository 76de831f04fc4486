"""Masks that are made only where somebody looks at them.

At 131,072 tokens a mask of every query and key has 17 billion entries. What attention methods need to know of it is
little: causal or not, which keys are padding, where packed texts begin. So the mask function noted here keeps what the
model asked for; layers that stay exact get the mask that their own implementation makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    bidirectional_mask_function,
    causal_mask_function,
    sdpa_mask,
)

from multipole_lab.interface.structure import (
    CustomMask as CustomMask,
    Structure,
    structure_of_rows,
    structure_of_tensor,
    unless_all,
)

_WHOLE = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}


@dataclass
class MaskRequest:
    """The arguments with which a model asked for a mask: see ``transformers.masking_utils.sdpa_mask``.

    ``risen`` are ``position_ids`` that ``check_positions`` let pass with this mask.
    """

    arguments: dict
    risen: Tensor | None = None
    _made: dict[str, Tensor | None] = field(default_factory=dict)
    _structure: Structure | None = None

    @property
    def queries(self) -> tuple[int, int]:
        """How many queries there are and the position of the first."""
        return self.arguments["q_length"], int(self.arguments.get("q_offset", 0))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[B, 1, Nq, Nk]."""
        return self.arguments["batch_size"], 1, self.queries[0], self.arguments["kv_length"]

    def tensor_for(self, implementation: str) -> Tensor | None:
        """The mask that this implementation makes itself."""
        if implementation not in self._made:
            make = ALL_MASK_ATTENTION_FUNCTIONS.get(implementation)
            self._made[implementation] = make(**self.arguments) if make else None
        return self._made[implementation]

    def rows(self, first: int, last: int) -> Tensor:
        """Which keys the queries ``first`` to ``last`` see, padding left aside: [B, n, Nk] bool."""
        changed = {
            "attention_mask": None,
            "allow_is_causal_skip": False,
            "allow_is_bidirectional_skip": False,
            "q_length": last - first,
            "q_offset": self.queries[1] + first,
        }
        return sdpa_mask(**{**self.arguments, **changed})[:, 0]

    def in_full(self) -> Tensor:
        """The whole mask, [B, 1, Nq, Nk] bool."""
        return sdpa_mask(**{**self.arguments, **_WHOLE})

    def known(self) -> Structure | None:
        """What this mask says as far as sizes tell, without a look at any value; None where they do not.

        ``keep`` is there wherever padding was named, also where every key counts.
        """
        function, local = self.arguments["mask_function"], self.arguments.get("local_size")
        if isinstance(self.arguments.get("q_offset"), Tensor):
            return None
        (n, offset), total = self.queries, self.arguments["kv_length"]
        shift = offset - int(self.arguments.get("kv_offset", 0))  # the first query's own column
        if function is bidirectional_mask_function:
            return Structure(False, total, self._padding(total))
        if function is causal_mask_function:
            keys = min(total, shift + n)
            return Structure(True, keys, self._padding(keys))
        if local is not None and offset + max(n, total - shift) > local:
            return Structure(True, total, local=local)
        return None

    def structure(self) -> Structure:
        """What this mask says, found out once for all layers."""
        if self._structure is None:
            self._structure = self._look()
        return self._structure

    def _look(self) -> Structure:
        known = self.known()
        (n, offset), total = self.queries, self.arguments["kv_length"]
        shift = offset - int(self.arguments.get("kv_offset", 0))
        if known is None:
            return structure_of_rows(
                self.rows, (self.shape[0], n, total), shift, lambda keys: _unless_all(self._padding(keys))
            )
        if known.local is not None:
            return replace(known, causal=not bool(self.rows(0, 1)[..., shift + 1 :].any()))
        return replace(known, keep=_unless_all(known.keep))

    def _padding(self, keys: int) -> Tensor | None:
        """[B, keys] bool, or None where none was named."""
        mask = self.arguments.get("attention_mask")
        if mask is None:
            return None
        first = int(self.arguments.get("kv_offset", 0))
        mask = torch.nn.functional.pad(mask, (0, max(0, first + keys - mask.shape[-1])))
        return mask[:, first : first + keys].bool()


def _unless_all(keep: Tensor | None) -> Tensor | None:
    return None if keep is None else unless_all(keep)


_QUESTIONS = {
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
    ),
    *(getattr(Tensor, name).__get__ for name in ("is_cuda", "is_nested", "is_meta", "is_cpu", "grad_fn")),
}


class LazyMask(Tensor):
    """A boolean mask [B, 1, Nq, Nk] of one stored entry; whoever computes with it gets the mask in full."""

    request: MaskRequest

    @staticmethod
    def of(request: MaskRequest) -> LazyMask:
        """The mask that was asked for."""
        entry = torch.ones((), dtype=torch.bool, device=request.arguments.get("device"))
        mask = entry.expand(request.shape).as_subclass(LazyMask)
        mask.request = request
        return mask

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Questions about shape, dtype and device are answered; all else sees the mask in full."""
        kwargs = kwargs or {}
        if func in _QUESTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return func(*tree_map(_in_full, args), **tree_map(_in_full, kwargs))


def _in_full(x: object) -> object:
    return x.request.in_full() if isinstance(x, LazyMask) else x


def lazy_mask(**arguments: object) -> Tensor | MaskRequest:
    """The mask function that is entered in ``AttentionMaskInterface``.

    Inside ``torch.compile`` it is the request itself: a graph passes on no tensor that is less than it seems.
    """
    if torch.compiler.is_compiling():
        return MaskRequest(arguments)
    offset = arguments.get("q_offset")
    if isinstance(
        offset, Tensor
    ):  # a static cache counts on in it, in place, before anybody looks at the mask
        arguments["q_offset"] = int(offset)
    return LazyMask.of(MaskRequest(arguments))


def after_graph(mask: object) -> object:
    """A mask as code outside a graph of ``torch.compile`` knows it: lazy where the graph handed on its request."""
    return LazyMask.of(mask) if isinstance(mask, MaskRequest) else mask


def mask_for(mask: object, implementation: str, dtype: torch.dtype) -> object:
    """The mask as an attention function of that name wants it: lazy ones are made, others passed on."""
    if isinstance(mask, LazyMask | MaskRequest):
        passed_on = ALL_MASK_ATTENTION_FUNCTIONS.get(implementation) is lazy_mask
        request = mask if isinstance(mask, MaskRequest) else mask.request
        return mask if passed_on else request.tensor_for(implementation)
    if implementation == "eager" and isinstance(mask, Tensor) and mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return mask


def structure_of(mask: Tensor | None, queries: int, keys: int, causal: Callable[[], bool]) -> Structure:
    """What a layer's mask says.

    Parameters
    ----------
    mask : what the layer was given: lazy, a boolean or additive one [B, 1, Nq, Nk] that the user made, or None.
    queries, keys : Nq and Nk of the layer.
    causal : asked where there is no mask.

    Raises
    ------
    CustomMask : a mask that only exact attention can honour.
    ValueError : one of another size.
    """
    if mask is None:
        is_causal = queries > 1 and causal()
        # As transformers' sdpa: without a mask, the first query is the first key's.
        return Structure(is_causal, min(queries, keys) if is_causal else keys)
    if mask.ndim != 4 or mask.shape[-2] not in (1, queries) or mask.shape[-1] != keys:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; [B, 1, {queries}, {keys}] is needed")
    return mask.request.structure() if isinstance(mask, LazyMask) else structure_of_tensor(mask, queries)
