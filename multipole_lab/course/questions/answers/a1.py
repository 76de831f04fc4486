"""Assignment 1: the right answers, in float64 and by what students may not use."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions.question import Random


def weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return (scale * q.double() @ k.double().T).softmax(-1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    logits = scale * q.double() @ k.double().T
    if hidden is not None:
        logits = logits.masked_fill(hidden, -torch.inf)
    return logits.softmax(-1) @ v.double(), logits.logsumexp(-1)


def mask(Nq: int, Nk: int, by: int = 0, top: bool = False) -> Tensor:
    return torch.ones(Nq, Nk).triu(1 + by + (0 if top else Nk - Nq)).bool()


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return attend(q, k, v, scale, mask(len(q), len(k)))


def merge(parts: list) -> tuple[Tensor, Tensor]:
    lse = torch.stack([lse.double() for _, lse in parts])
    share = torch.nan_to_num(lse.softmax(0))[..., None]
    out = torch.stack([torch.where(torch.isneginf(lse)[:, None], 0.0, out.double()) for out, lse in parts])
    return (share * out).sum(0), lse.logsumexp(0)


def remove(whole: tuple, part: tuple) -> tuple[Tensor, Tensor]:
    (out, lse), (gone, gone_lse) = [(o.double(), l.double()) for o, l in (whole, part)]
    # Over the integers of a balance: what is left is a merge with a weight below zero.
    factor = torch.stack([torch.ones_like(lse), -(gone_lse - lse).exp()])
    left = factor.sum(0)
    return (factor[..., None] * torch.stack([out, gone])).sum(0) / left[:, None], lse + left.log()


def stream(q: Tensor, blocks: list, scale: float) -> tuple[Tensor, Tensor]:
    return attend(q, torch.cat([k for k, _ in blocks]), torch.cat([v for _, v in blocks]), scale)


def pull(q: Tensor, k: Tensor, scale: float) -> Tensor:
    q = q.double().clone().requires_grad_()
    (scale * q @ k.double().T).logsumexp(-1).sum().backward()
    return q.grad


def halves(r: Random, Nq: int, Dv: int, level: float, gap: float = 0.0) -> tuple[tuple, tuple]:
    """(whole, part): partials with a log-sum-exp about ``level``, of which the part has ``exp(gap)`` or so."""
    part = (r(Nq, Dv), level + gap + 0.5 * r(Nq))
    rest = (r(Nq, Dv), level + 0.5 * r(Nq))
    whole = merge([part, rest])
    return (whole[0].float(), whole[1].float()), part
