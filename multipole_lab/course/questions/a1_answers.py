"""Assignment 1's functions: the right answers, by what students may not use, and the usual wrong ones."""

from __future__ import annotations

import torch
from torch import Tensor

from multipole_lab.course.questions.question import Random

# --- right, in float64 and by what students may not use ---------------------------------------------


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


# --- wrong ----------------------------------------------------------------------------------------


def naive(q, k, scale):
    grown = (scale * q @ k.T).exp()
    return grown / grown.sum(-1, keepdim=True)


def naive_attend(q, k, v, scale):
    return naive(q, k, scale) @ v, (scale * q @ k.T).exp().sum(-1).log()


def shifted_lse(q, k, v, scale):
    out, lse = attend(q, k, v, scale)
    return out, lse - (scale * q @ k.T).amax(-1)


def zeroed(q, k, v, scale):
    logits = (scale * q @ k.T).double().masked_fill(mask(len(q), len(k)), 0.0)
    return logits.softmax(-1) @ v.double(), logits.logsumexp(-1)


def late_mask(q, k, v, scale):
    out, _ = causal(q, k, v, scale)
    return out, attend(q, k, v, scale)[1]


def naive_merge(parts):
    grown = torch.stack([lse.exp() for _, lse in parts])
    out = sum(g[:, None] * out for g, (out, _) in zip(grown, parts, strict=True))
    return out / grown.sum(0)[:, None], grown.sum(0).log()


def nan_merge(parts):
    lse = torch.stack([lse for _, lse in parts]).double()
    share = (lse - lse.logsumexp(0)).exp()
    return (share[..., None] * torch.stack([out for out, _ in parts])).sum(0), lse.logsumexp(0)


def mean_merge(parts):
    return torch.stack([out for out, _ in parts]).mean(0), merge(parts)[1]


def naive_remove(whole, part):
    (out, lse), (gone, gone_lse) = whole, part
    rest = lse.exp() - gone_lse.exp()
    return (lse.exp()[:, None] * out - gone_lse.exp()[:, None] * gone) / rest[:, None], rest.log()


def undivided_remove(whole, part):
    share = (part[1] - whole[1]).exp()[:, None]
    return whole[0] - share * part[0], remove(whole, part)[1]


def unscaled_stream(q, blocks, scale):
    """Carries sums taken relative to a maximum that has changed since."""
    largest, total, out = None, 0.0, 0.0
    for k, v in blocks:
        logits = scale * q @ k.T
        largest = logits.amax(-1) if largest is None else torch.maximum(largest, logits.amax(-1))
        grown = (logits - largest[:, None]).exp()
        total, out = total + grown.sum(-1), out + grown @ v
    return out / total[:, None], largest + total.log()


def averaged_stream(q, blocks, scale):
    parts = [attend(q, k, v, scale) for k, v in blocks]
    return torch.stack([out for out, _ in parts]).mean(0), merge(parts)[1]
