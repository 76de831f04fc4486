"""What a model wants of its attention that no expansion of softmax attention gives, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from multipole_lab.attention import Method, MuSe
from multipole_lab.interface.functions import attend_as, check_replaceable
from multipole_lab.interface.masked import too_few_keys
from multipole_lab.interface.masks import LazyMask, Structure

_APART = (
    "transformers keeps packed texts apart only without attention_mask and without a cache. Leave attention_mask out "
    "(padding can be a text of its own) and pass use_cache=False"
)


# What some models hand to their attention and no expansion of softmax attention knows; eager functions have no others
# (tests/evaluation/test_families.py reads transformers' files).
_UNKNOWN = {
    "softcap": "caps its logits (softcap={})",
    "position_bias": "adds a position bias to its logits",
    "cache": "reads a paged cache",
    "sinks": "has sinks that depend on the query",
}


class Refusal(NamedTuple):
    """What a method cannot honour: as ``DropIn`` counts it, and in a whole sentence."""

    reason: str
    message: str


def where(layer: int | None, module: nn.Module) -> str:
    """A layer as messages name it."""
    return f"layer {layer} ({type(module).__name__})"


def stays_exact(
    method: Method, named: bool, query: Tensor, key: Tensor, structure: Structure | None
) -> str | None:
    """Why a call is left to exact attention, or None; where the structure is None, as far as sizes tell."""
    from multipole_lab.interface.handle import Handle

    if structure is not None and structure.local and not named:
        return _window(structure)
    if isinstance(key, Handle):
        return "MultipoleCache attends for single tokens"
    if query.shape[2] == 1 and isinstance(method, MuSe):
        return "a single query is its own expansion point"
    full = structure is not None and structure.cuts is None and not structure.causal
    return "no more keys than clusters" if full and too_few_keys(method, structure.keys) else None


def unhonoured(
    method: Method, place: str, module: nn.Module, structure: Structure | None, kwargs: Mapping[str, object]
) -> Refusal | None:
    """What a model wants of its attention and no expansion of softmax attention gives, or None.

    A sliding window in ``structure`` is one that ``stays_exact`` let pass, in a layer that was named.

    Raises
    ------
    ValueError : a model whose attention cannot be replaced at all; see ``check_replaceable``.
    """
    check_replaceable(module, kwargs)
    name = type(method).__name__
    if structure is not None and structure.local:
        reason = _window(structure)
        return Refusal(reason, f"{place} has a {reason}, which stays exact: leave it out of layers")
    for key, words in _UNKNOWN.items():
        if kwargs.get(key) is not None:
            reason = words.format(kwargs[key])
            return Refusal(reason, f"{place} {reason}, which {name} cannot do")
    if wants_weights(module, kwargs):
        return Refusal("attention weights are wanted", _no_weights(name))
    dropout = kwargs.get("dropout") or 0.0
    if dropout > 0:
        reason = f"drops attention weights in training (dropout {dropout:g})"
        change = f"load the model with {_dropout_name(module, dropout)}=0.0, or call model.eval()"
        return Refusal(reason, f"{place} {reason}, and {name} makes none to drop; {change}")
    return None


def by_itself(
    former: Callable,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: object,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """A call by the model's own attention: ``former``, or eager where weights are wanted, as only that makes them."""
    if wants_weights(module, kwargs):
        former = partial(attend_as, "eager")
    return former(module, query, key, value, mask, **kwargs)


def _window(structure: Structure) -> str:
    return f"sliding window or chunk of {structure.local} tokens"


def _dropout_name(module: nn.Module, dropout: float) -> str:
    """The model's own parameter for the dropout of attention weights, such as ``attn_pdrop`` in GPT-2."""
    drops = {
        name: value for name, value in vars(module.config).items() if "drop" in name and value == dropout
    }
    return next((name for name in drops if "att" in name), next(iter(drops), "attention_dropout"))


def check_apart(mask: Tensor | None, structure: Structure, positions: Tensor | None, queries: int) -> None:
    """``check_positions``, once a forward pass: its layers are given the same mask and the same positions."""
    request = mask.request if isinstance(mask, LazyMask) else None
    if request is None or positions is None or request.risen is not positions:
        check_positions(structure, positions, queries)
        if request is not None:
            request.risen = positions


def check_packed(structure: Structure, packed: Tensor | None) -> None:
    """Refuse ``cu_seq_lens_q`` that say something else than the positions."""
    if packed is not None:
        cuts = structure.cuts or []
        # FlashAttention counts through the batch: one row of packed texts, or rows one behind the other.
        if packed.flatten().tolist() not in cuts:
            raise ValueError(
                "cu_seq_lens_q packs texts that position_ids do not show; give position_ids that begin again "
                "at every text, and use_cache=False"
            )


def wants_weights(module: nn.Module, kwargs: Mapping[str, object]) -> bool:
    """Whether a model was asked for attention weights: by the call's ``output_attentions``, or by its configuration."""
    asked = kwargs.get("output_attentions")
    return bool(getattr(module.config, "output_attentions", False) if asked is None else asked)


def check_no_weights(module: nn.Module, kwargs: Mapping[str, object], name: str) -> None:
    """Refuse what would silently be missing from the output.

    Raises
    ------
    ValueError : attention weights are wanted of what makes none.
    """
    if wants_weights(module, kwargs):
        raise ValueError(_no_weights(name))


def _no_weights(name: str) -> str:
    return (
        f"output_attentions is set, but {name} makes no attention weights; leave it False in the call and in "
        "model.config"
    )


def check_positions(structure: Structure, positions: Tensor | None, queries: int) -> None:
    """Refuse packed texts that the mask does not keep apart; positions behind padding may begin again.

    Parameters
    ----------
    structure : of the mask. positions : ``position_ids`` as the layer was given them, [B or 1, Nq], or None.
    queries : Nq.

    Raises
    ------
    ValueError : ``position_ids`` of one text do not rise.
    """
    if positions is None or positions.ndim != 2 or positions.shape[1] != queries or queries < 2:
        return
    if structure.cuts is not None or not structure.causal:
        return
    if structure.keep is not None:
        positions = positions.masked_fill(~structure.keep[:, structure.keys - queries :], -1)
    before = positions.cummax(-1).values[:, :-1]
    again = (positions[:, 1:] >= 0) & (positions[:, 1:] <= before)
    if torch.compiler.is_compiling():  # nobody may look; the graph does when it runs
        torch._assert_async(~again.any(), f"position_ids begin again inside a text. {_APART}")
    elif bool(again.any()):
        row, place = again.nonzero()[0].tolist()
        raise ValueError(
            f"position_ids begin again at token {place + 1} of row {row}, as packed texts do, but the texts would see "
            f"each other: {_APART}"
        )
