"""What a model wants of its attention that no expansion of softmax attention gives: refused by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from multipole_lab.attention import Method, MuSe
from multipole_lab.interface.masked import too_few_keys
from multipole_lab.interface.masks import LazyMask, Structure

_APART = (
    "transformers keeps packed texts apart only without attention_mask and without a cache. Leave attention_mask out "
    "(padding can be a text of its own) and pass use_cache=False"
)


def where(layer: int | None, module: nn.Module) -> str:
    """A layer as messages name it."""
    return f"layer {layer} ({type(module).__name__})"


def stays_exact(
    method: Method, place: str, named: bool, query: Tensor, key: Tensor, structure: Structure | None
) -> str | None:
    """Why a call is left to exact attention, or None; where the structure is None, as far as sizes tell.

    Raises
    ------
    ValueError : a sliding window in a layer that was ``named``.
    """
    from multipole_lab.interface.handle import Handle

    if structure is not None and structure.local:
        reason = f"sliding window or chunk of {structure.local} tokens"
        if named:
            raise ValueError(f"{place} has a {reason}, which stays exact: leave it out of layers")
        return reason
    if isinstance(key, Handle):
        return "MultipoleCache attends for single tokens"
    if query.shape[2] == 1 and isinstance(method, MuSe):
        return "a single query is its own expansion point"
    full = structure is not None and structure.cuts is None and not structure.causal
    return "no more keys than clusters" if full and too_few_keys(method, structure.keys) else None


def check_honoured(method: Method, where: str, module: nn.Module, kwargs: Mapping[str, object]) -> None:
    """Refuse by name what a model wants of its attention and no expansion of softmax attention gives."""
    name = type(method).__name__
    if kwargs.get("softcap") is not None:
        raise ValueError(f"{where} caps its logits (softcap={kwargs['softcap']}), which {name} cannot do")
    if kwargs.get("position_bias") is not None:
        raise ValueError(f"{where} adds a position bias to its logits, which {name} cannot do")
    if kwargs.get("cache") is not None:
        raise ValueError(f"{where} reads a paged cache, which {name} cannot do")
    check_no_weights(module, kwargs, name)
    dropout = kwargs.get("dropout") or 0.0
    if dropout > 0:
        raise ValueError(
            f"{where} drops attention weights in training (dropout {dropout:g}), and {name} makes none to drop; "
            f"load the model with {_dropout_name(module, dropout)}=0.0, or call model.eval()"
        )


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
        raise ValueError(
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
