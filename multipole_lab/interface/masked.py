"""An attention method under the structure of a mask: padding, packed texts each by itself, learned sinks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from multipole_lab.attention import Exact, Method
from multipole_lab.attention.calls.opaque import attend, read, written
from multipole_lab.attention.exact import exact_partial
from multipole_lab.attention.partials import Partial
from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.interface.structure import CustomMask, Structure, structure_of_rows, structure_of_tensor


def apply(
    method: Method,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    structure: Structure,
    scale: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """A method under a mask: [B, Hq, Nq, Dv].

    ``sinks`` [Hq] are learned logits of a key without a value, as in gpt-oss: they join the softmax's denominator,
    ``out = exp(lse - logaddexp(lse, sink)) out``.
    """
    return _with_learned(sinks, *_under(method, q, k, v, structure, scale))


def apply_unseen(
    method: Method,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scale: float | None = None,
    sinks: Tensor | None = None,
    strict: bool = False,
) -> Tensor:
    """The same under a whole mask [B, H, Nq or 1, Nk] in a graph of ``torch.compile``, looked at when that runs.

    A mask that only exact attention can honour gets that, or is refused with a ``CustomMask`` then if ``strict``.
    """
    text = written(UnderMask(written(method), strict))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return _with_learned(sinks, *attend(q, k, v, mask, scale, False, text))


@dataclass(frozen=True)
class UnderMask(Method):
    """A method, as ``opaque.written`` writes it, whose mask is a whole one and decides what is causal."""

    method: str
    strict: bool

    def _full(self, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Partial:
        method = read(self.method)
        try:
            structure = _looked_at(mask, q.shape[2])
        except CustomMask:
            if self.strict and not isinstance(method, Exact):
                raise
            if mask.dtype == torch.bool and mask.shape[1] == 1:
                return exact_partial(q, k, v, scale, mask=mask[:, 0])
            return _weighed(q, k, v, scale, mask)
        if structure.cuts is None and not structure.causal and too_few_keys(method, structure.keys):
            method = Exact()
        return _under(method, q, k, v, structure, scale)


def _weighed(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Partial:
    """Softmax attention under a mask of any kind [B, 1 or Hq, 1 or Nq, Nk], in memory O(Nq Nk)."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    logits = (scale * q @ k.mT).to(statistics_dtype(q.dtype))
    lowest = torch.finfo(logits.dtype).min
    logits = (
        logits.masked_fill(~mask, lowest) if mask.dtype == torch.bool else (logits + mask).clamp(min=lowest)
    )
    return logits.softmax(-1).to(v.dtype) @ v, logits.logsumexp(-1)


def _looked_at(mask: Tensor, queries: int) -> Structure:
    """The structure of a whole mask, packed texts among them."""
    try:
        return structure_of_tensor(mask, queries)
    except CustomMask:
        seen = mask[:, 0]
        if mask.dtype != torch.bool or mask.shape[1] > 1 or seen.shape[1] != seen.shape[2]:
            raise
        return structure_of_rows(lambda first, last: seen[:, first:last], seen.shape, 0, lambda keys: None)


def _with_learned(sinks: Tensor | None, out: Tensor, lse: Tensor) -> Tensor:
    if sinks is None:
        return out
    share = (lse - sinks.to(lse.dtype).view(1, -1, 1)).sigmoid()
    return (out * share.unsqueeze(-1)).to(out.dtype)


def _under(
    method: Method, q: Tensor, k: Tensor, v: Tensor, structure: Structure, scale: float | None
) -> Partial:
    if structure.cuts is not None:
        return _packed(method, q, k, v, structure, scale)
    k, v = k[:, :, : structure.keys], v[:, :, : structure.keys]
    return method(q, k, v, causal=structure.causal, scale=scale, mask=structure.keep, return_lse=True)


def _packed(
    method: Method, q: Tensor, k: Tensor, v: Tensor, structure: Structure, scale: float | None
) -> Partial:
    """Every packed text by itself; texts that begin at the same places in the whole batch go together."""
    cuts = structure.cuts
    if all(row == cuts[0] for row in cuts):
        parts = []
        for first, last in zip(cuts[0], cuts[0][1:], strict=False):
            part = (x[:, :, first:last] for x in (q, k, v))
            keep = None if structure.keep is None else structure.keep[:, first:last]
            one = replace(structure, keys=last - first, keep=keep, cuts=None)
            parts.append(_under(_fitting(method, last - first, structure.causal), *part, one, scale))
        outs, lses = zip(*parts, strict=True)
        return torch.cat(outs, 2), torch.cat(lses, 2)
    rows = []
    for i, row in enumerate(cuts):
        keep = None if structure.keep is None else structure.keep[i : i + 1]
        part = (x[i : i + 1] for x in (q, k, v))
        rows.append(_packed(method, *part, replace(structure, keep=keep, cuts=[row]), scale))
    outs, lses = zip(*rows, strict=True)
    return torch.cat(outs), torch.cat(lses)


def _fitting(method: Method, keys: int, causal: bool) -> Method:
    """The method with no more clusters than there are keys."""
    if not causal and too_few_keys(method, keys):
        return replace(method, clusters=keys)
    return method


def too_few_keys(method: Method, keys: int) -> bool:
    """Whether there are no more keys than the method makes clusters of."""
    clusters = getattr(method, "clusters", None)
    return isinstance(clusters, int) and keys <= clusters
