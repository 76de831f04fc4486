"""Masks that are made only where somebody looks at them, and what they say about a layer's attention.

At 131,072 tokens a mask of every query and key has 17 billion entries. What attention methods need to know of it is
little: causal or not, which keys are padding, where packed texts begin. So the mask function noted here keeps what the
model asked for; layers that stay exact get the mask that their own implementation makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    bidirectional_mask_function,
    causal_mask_function,
    sdpa_mask,
)

# Mask entries looked at at a time.
TILE = 1 << 22
_WHOLE = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}


@dataclass(frozen=True)
class Structure:
    """What a mask lets the queries of a layer see.

    Attributes
    ----------
    causal : whether query t sees no key behind position ``keys - Nq + t``.
    keys : how many leading keys are in use; a static cache holds more.
    keep : [B, keys] bool, False for padding; None where every key counts.
    cuts : for each text of the batch the places where packed texts begin and the end, such as [0, 40, 100]; None
        where nothing is packed.
    local : the size of a sliding window or chunk that is shorter than the text; None for none.
    """

    causal: bool
    keys: int
    keep: Tensor | None = None
    cuts: list[list[int]] | None = None
    local: int | None = None


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

    def made_for(self, implementation: str) -> Tensor | None:
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

    def structure(self) -> Structure:
        """What this mask says, found out once for all layers."""
        if self._structure is None:
            self._structure = self._look()
        return self._structure

    def _look(self) -> Structure:
        function, local = self.arguments["mask_function"], self.arguments.get("local_size")
        (n, offset), total = self.queries, self.arguments["kv_length"]
        shift = offset - int(self.arguments.get("kv_offset", 0))  # the first query's own column
        if function is bidirectional_mask_function:
            return Structure(False, total, self._padding(total))
        if function is causal_mask_function:
            keys = min(total, shift + n)
            return Structure(True, keys, self._padding(keys))
        if local is not None and offset + max(n, total - shift) > local:
            causal = not bool(self.rows(0, 1)[..., shift + 1 :].any())
            return Structure(causal, total, local=local)
        return self._by_rows(n, shift, total)

    def _by_rows(self, n: int, shift: int, total: int) -> Structure:
        """The structure of any mask function by looking at what every query sees."""
        step = max(1, TILE // (self.shape[0] * total))
        starts, lasts = [], []
        column = torch.arange(total, device=self.arguments.get("device"))
        for first in range(0, n, step):
            seen = self.rows(first, min(first + step, n))
            start = torch.where(seen, column, total).amin(-1)
            last = torch.where(seen, column, -1).amax(-1)
            if not bool((seen.sum(-1) == last - start + 1).all()):
                raise CustomMask(f"{_CUSTOM}, with gaps between the keys that a query sees")
            starts.append(start)
            lasts.append(last)
        start, last = torch.cat(starts, 1), torch.cat(lasts, 1)  # [B, Nq]
        own = torch.arange(shift, shift + n, device=start.device)
        causal = bool((last == own).all())
        begins = start == own  # of a text; its other queries start where their left neighbour does
        joined = torch.cat([begins[:, :1], begins[:, 1:] | (start[:, 1:] == start[:, :-1])], 1)
        if bool((start == 0).all()) and (causal or bool((last == total - 1).all())):
            keys = min(total, shift + n) if causal else total
            return Structure(causal, keys, self._padding(keys))
        ends = torch.cat([begins[:, 1:], torch.ones_like(begins[:, :1])], 1)
        whole = bool((torch.where(ends, last, 0) == torch.where(ends, own, 0)).all())
        same = causal or bool((ends[:, :-1] | (last[:, 1:] == last[:, :-1])).all())
        if shift or n != total or not (bool(joined.all()) and whole and same):
            raise CustomMask(_CUSTOM)
        cuts = [[*row.nonzero().flatten().tolist(), n] for row in begins]
        return Structure(causal, n, self._padding(n), cuts)

    def _padding(self, keys: int) -> Tensor | None:
        """[B, keys], or None where all count."""
        mask = self.arguments.get("attention_mask")
        if mask is None:
            return None
        first = int(self.arguments.get("kv_offset", 0))
        mask = torch.nn.functional.pad(mask, (0, max(0, first + keys - mask.shape[-1])))
        return _unless_all(mask[:, first : first + keys].bool())


class CustomMask(ValueError):
    """A mask of which only exact attention can make sense: summaries of many keys cannot leave out some of them."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: only exact attention can honour it; use ml.Exact(), or leave these layers out of `layers`"
        )


_CUSTOM = (
    "this attention mask is neither causal nor full attention with key padding or packed texts, but depends on the "
    "query in another way"
)
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
    return sdpa_mask(**{**x.request.arguments, **_WHOLE}) if isinstance(x, LazyMask) else x


def lazy_mask(**arguments: object) -> Tensor:
    """The mask function that is entered in ``AttentionMaskInterface``.

    Inside ``torch.compile`` the mask is written out: its graphs pass on no tensor that is less than it seems.
    """
    if torch.compiler.is_compiling():
        return sdpa_mask(**{**arguments, **_WHOLE})
    offset = arguments.get("q_offset")
    if isinstance(
        offset, Tensor
    ):  # a static cache counts on in it, in place, before anybody looks at the mask
        arguments["q_offset"] = int(offset)
    return LazyMask.of(MaskRequest(arguments))


def mask_for(mask: object, implementation: str, dtype: torch.dtype) -> object:
    """The mask as an attention function of that name wants it: lazy ones are made, others passed on."""
    if isinstance(mask, LazyMask):
        passed_on = ALL_MASK_ATTENTION_FUNCTIONS.get(implementation) is lazy_mask
        return mask if passed_on else mask.request.made_for(implementation)
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
    return mask.request.structure() if isinstance(mask, LazyMask) else _of_tensor(mask, queries)


def _of_tensor(mask: Tensor, queries: int) -> Structure:
    """The same for a mask that somebody wrote out: full or causal attention with key padding."""
    if mask.dtype != torch.bool:
        hidden = mask <= torch.finfo(mask.dtype).min / 2
        if not bool(((mask == 0) | hidden).all()):
            raise CustomMask("the mask is a bias on the logits")
        mask = ~hidden
    if not bool((mask == mask[:, :1]).all()):
        raise CustomMask("the mask differs between heads")
    seen = mask[:, 0]  # [B, Nq or 1, Nk]
    keep, total = seen.any(1), seen.shape[-1]
    if bool((seen == keep[:, None]).all()):
        return Structure(False, total, _unless_all(keep))
    # The queries are the last of the keys in use; a static cache has room for more behind them. The first query's own
    # column is the furthest that any query sees ahead of its number, unless every query is padding.
    last = torch.where(seen, torch.arange(1, total + 1, device=mask.device), 0).amax(-1) - 1  # [B, Nq or 1]
    ahead = int((last - torch.arange(last.shape[1], device=mask.device)).max())
    keys = max(0, ahead) + queries
    if keys <= total:
        place = torch.arange(keys - queries, keys, device=mask.device)
        past = torch.arange(total, device=mask.device) <= place[:, None]
        padding = ~keep[:, keys - queries : keys, None]  # what padding itself sees reaches nobody
        if bool((padding | (seen == past & keep[:, None])).all()):
            return Structure(True, keys, _unless_all(keep[:, :keys]))
    raise CustomMask(_CUSTOM)


def _unless_all(keep: Tensor) -> Tensor | None:
    return None if bool(keep.all()) else keep
