"""An attention method under the structure of a mask: padding, packed texts each by itself, learned sinks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from multipole_lab.attention import Method
from multipole_lab.interface.structure import Structure


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
    if structure.cuts is not None:
        return _packed(method, q, k, v, structure, scale, sinks)
    k, v = k[:, :, : structure.keys], v[:, :, : structure.keys]
    arguments = {"causal": structure.causal, "scale": scale, "mask": structure.keep}
    if sinks is None:
        return method(q, k, v, **arguments)
    out, lse = method(q, k, v, **arguments, return_lse=True)
    share = (lse - sinks.to(lse.dtype).view(1, -1, 1)).sigmoid()
    return (out * share.unsqueeze(-1)).to(out.dtype)


def _packed(
    method: Method,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    structure: Structure,
    scale: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Every packed text by itself; texts that begin at the same places in the whole batch go together."""
    cuts = structure.cuts
    if all(row == cuts[0] for row in cuts):
        parts = []
        for first, last in zip(cuts[0], cuts[0][1:], strict=False):
            part = (x[:, :, first:last] for x in (q, k, v))
            keep = None if structure.keep is None else structure.keep[:, first:last]
            one = replace(structure, keys=last - first, keep=keep, cuts=None)
            parts.append(apply(_fitting(method, last - first, structure.causal), *part, one, scale, sinks))
        return torch.cat(parts, 2)
    rows = []
    for i, row in enumerate(cuts):
        keep = None if structure.keep is None else structure.keep[i : i + 1]
        part = (x[i : i + 1] for x in (q, k, v))
        rows.append(_packed(method, *part, replace(structure, keep=keep, cuts=[row]), scale, sinks))
    return torch.cat(rows)


def _fitting(method: Method, keys: int, causal: bool) -> Method:
    """The method with no more clusters than there are keys."""
    if not causal and too_few_keys(method, keys):
        return replace(method, clusters=keys)
    return method


def too_few_keys(method: Method, keys: int) -> bool:
    """Whether there are no more keys than the method makes clusters of."""
    clusters = getattr(method, "clusters", None)
    return isinstance(clusters, int) and keys <= clusters
