"""Exact attention, and the one sum that every approximation ends in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Partial = tuple[Float[Tensor, "*batch N Dv"], Float[Tensor, "*batch N"]]


def exact(
    q: Float[Tensor, "*batch Nq D"],
    k: Float[Tensor, "*batch Nk D"],
    v: Float[Tensor, "*batch Nk Dv"],
    s: float,
    seen: Bool[Tensor, "*#batch #Nq Nk"] | None = None,
    bias: Float[Tensor, "*#batch #Nq Nk"] | float = 0.0,
) -> Partial:
    """``o(q) = sum_n softmax_n(s q.k_n + b_n) v_n`` over the keys that each query sees, and the log of the sum."""
    return softmax_sum(s * q @ k.mT + bias, v, seen)


def softmax_sum(
    logits: Float[Tensor, "*batch Nq Nk"],
    v: Float[Tensor, "*batch Nk Dv"],
    seen: Bool[Tensor, "... Nk"] | None = None,
) -> Partial:
    """``sum_n softmax_n(a_n) v_n`` and ``log sum_n exp(a_n)`` over what is seen."""
    weights, lse = softmax(logits, seen)
    return weights @ v, lse


def softmax(
    logits: Float[Tensor, "*batch n"], seen: Bool[Tensor, "... n"] | None = None
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch"]]:
    """``exp(a_n - lse)`` and ``lse = log sum_n exp(a_n)`` over what is seen; all 0 and -inf where nothing is."""
    if seen is None:
        seen = torch.ones_like(logits, dtype=torch.bool)
    seen = seen & (logits > -torch.inf)
    blind = ~seen.any(-1, keepdim=True)
    # Where nothing is seen, logits of 0 stand in, and what comes of them is left out: no NaN in any derivative.
    logits = torch.where(blind, 0.0, logits.masked_fill(~seen & ~blind, -torch.inf))
    weights = torch.where(blind, 0.0, logits.softmax(-1))
    return weights, torch.where(blind[..., 0], -torch.inf, logits.logsumexp(-1))


def visible(
    queries: int, keys: int, causal: bool = False, kept: Bool[Tensor, "*batch Nk"] | None = None
) -> Bool[Tensor, "*batch Nq Nk"]:
    """Which keys each query sees: the kept ones; causally those up to its own position, one of the last Nq."""
    device = None if kept is None else kept.device
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    seen = seen.tril(keys - queries) if causal else seen
    return seen if kept is None else seen & kept.unsqueeze(-2)


def merge(partials: Sequence[Partial]) -> Partial:
    """Partials over disjoint keys: ``lse = log sum_i exp(l_i)``, ``out = sum_i exp(l_i - lse) o_i``."""
    outs, lses = (torch.stack(x) for x in zip(*partials, strict=True))
    # Every partial is one value with a logit.
    out, lse = softmax_sum(lses.movedim(0, -1).unsqueeze(-2), outs.movedim(0, -2))
    return out.squeeze(-2), lse.squeeze(-1)


def over_heads(attend: Callable[..., Partial], *tensors: Tensor | None, **options: object) -> Partial:
    """``attend`` of every head alone, of tensors [B, H, ...] of which q [B, Hq, Nq, D] is the first.

    A key/value head serves Hq / Hk query heads; an argument that is None stays None.
    """
    B, Hq = tensors[0].shape[:2]

    def at(b: int, h: int) -> Partial:
        return attend(*(None if x is None else x[b, h * x.shape[1] // Hq] for x in tensors), **options)

    parts = [at(b, h) for b in range(B) for h in range(Hq)]
    out, lse = (torch.stack(x) for x in zip(*parts, strict=True))
    return out.unflatten(0, (B, Hq)), lse.unflatten(0, (B, Hq))
